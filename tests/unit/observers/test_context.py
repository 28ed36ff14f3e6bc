"""An observer runs in the context of its call, so that it can open something there."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Observer,
    background,
    before_response,
    defer,
    deferring,
)
from wsgi_defer.jobs import Jobs

from ...helpers.client import get, text_app
from ...helpers.orders import handle_abort

pytestmark = pytest.mark.usefixtures("the_alarm_is_as_it_was")
CURRENT = ContextVar("current", default="none")


class Opens(Observer):
    """Sets a variable for each call, and looks at it at the call's end."""

    def __init__(self):
        self.ends = []
        self.found = []
        self.elsewhere = []
        self.threads = {}

    def started(self, call, scope):
        self.found.append(CURRENT.get())
        CURRENT.set(call.label)
        self.threads[call.label] = threading.get_ident()

    def finished(self, call, scope):
        self.note("finished", call)

    def failed(self, call, scope, error):
        self.note(f"failed: {type(error).__name__}", call)

    def lost(self, call, scope, why):
        self.note("lost", call)

    def note(self, what, call):
        self.ends.append((what, call.label, CURRENT.get()))
        if self.threads[call.label] != threading.get_ident():
            self.elsewhere.append(what)


@pytest.fixture
def opens():
    """It has found what the view has set, each time, and ends where it started."""
    observer = Opens()
    yield observer
    assert set(observer.found) == {"view"}
    assert set(observer.elsewhere) <= {"lost"}


@pytest.fixture
def saw():
    """What calls have found in the variable, in order."""
    return []


def respond(view, observer, **options):
    """One response, whose view registers calls; returns when they have ended."""

    def in_view():
        CURRENT.set("view")
        view()

    app = DeferMiddleware(text_app(in_view), observers=[observer], **options)
    before = CURRENT.set("none")
    try:
        return get(app)
    finally:
        CURRENT.reset(before)
        assert background.join(30)


@pytest.mark.parametrize("inline", [True, False])
def test_inline_and_in_the_background(opens, saw, inline):
    """Each call sees what was set for it, and the next one does not."""

    def look():
        saw.append(CURRENT.get())
        if len(saw) == 1:
            raise ValueError

    def view():
        defer(look).named("one")
        defer(look).named("two")

    respond(view, opens, inline=inline)
    assert saw == ["one", "two"]
    assert opens.ends == [
        ("failed: ValueError", "one", "one"),
        ("finished", "two", "two"),
    ]


def test_a_call_inside_a_call(opens):
    """What a call defers is deferred in the context of the call."""

    respond(lambda: defer(lambda: defer(int).named("two")).named("one"), opens)
    assert opens.found == ["view", "one"]
    assert [end[0] for end in opens.ends] == ["finished", "finished"]
    opens.found.remove("one")


def test_a_coroutine(opens, saw):
    """It runs on a loop in another thread, in a copy; and so does what it starts."""

    async def look():
        await asyncio.sleep(0)
        saw.append(CURRENT.get())
        await asyncio.create_task(later())

    async def later():
        saw.append(CURRENT.get())

    respond(lambda: defer(look).named("one"), opens)
    assert saw == ["one", "one"]
    assert opens.ends == [("finished", "one", "one")]


def test_a_call_that_runs_early(opens, saw):
    """The view keeps what it has."""

    def view():
        call = defer(lambda: saw.append(CURRENT.get())).named("one")
        call.result()
        saw.append(CURRENT.get())

    respond(view, opens)
    assert saw == ["one", "view"]
    assert opens.ends == [("finished", "one", "one")]


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_call_before_the_response(opens, saw, error):
    """Also if it fails, so that the client gets a 503."""

    def look():
        saw.append(CURRENT.get())
        if error is not None:
            raise error

    reply = respond(lambda: before_response(look).named("one"), opens)
    assert saw == ["one"]
    assert reply.status[:3] == ("200" if error is None else "503")
    assert opens.ends == [
        ("finished" if error is None else "failed: ValueError", "one", "one")
    ]


def test_around(opens, saw):
    """What is around calls sees it, too."""

    class Around:
        def __enter__(self):
            saw.append(CURRENT.get())

        def __exit__(self, *error):
            saw.append(CURRENT.get())

    respond(lambda: defer(int).named("one"), opens, around=Around)
    assert saw == ["one", "one"]


def test_a_time_limit(opens, saw):
    """The call is cut off, and its end is told in its context."""

    def hang():
        saw.append(CURRENT.get())
        time.sleep(60)

    respond(lambda: defer(hang).named("one").time_limit(0.05), opens, inline=True)
    assert saw == ["one"]
    assert opens.ends == [("failed: TimeLimitError", "one", "one")]


@pytest.mark.parametrize("where", ["in the thread that runs it", "in another one"])
def test_a_lost_call(opens, released, where):
    """It is told in a copy, as the call may be running: in here, it still is."""
    begun = threading.Event()

    def hang():
        begun.set()
        assert released.wait(30)

    def run():
        CURRENT.set("view")
        with deferring(observers=[opens]) as scope:
            scopes.append(scope)
            if where == "in another one":
                defer(hang).named("one")
            else:
                defer(handle_abort).named("one")

    scopes = []
    thread = threading.Thread(target=run)
    if where == "in another one":
        thread.start()
        assert begun.wait(30)
        scopes[0].lose(scopes[0].running, "tests")
        released.set()
        thread.join(30)
    else:
        before = CURRENT.set("view")
        with pytest.raises(SystemExit):
            run()
        CURRENT.reset(before)
    assert opens.ends == [("lost", "one", "one")]


def test_calls_of_a_job(opens, saw):
    """A handler defers, and those who watch the jobs hear of the call."""
    jobs = Jobs(observers=[opens])

    @jobs.handler("look")
    def look(payload):
        CURRENT.set("view")
        defer(lambda: saw.append(CURRENT.get())).named("one")

    with jobs.eager():
        jobs.enqueue("look")
    assert saw == ["one"]
    assert opens.ends == [("finished", "one", "one")]
