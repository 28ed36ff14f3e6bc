"""What is said of a call is said in its own context, and threads of ours have none."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

import pytest
from flask import Flask, g, request

from wsgi_defer import Observer, Outcome, background, defer, deferring, pool
from wsgi_defer._calls import watch
from wsgi_defer._calls.drain import drain
from wsgi_defer._calls.options import Options
from wsgi_defer._calls.scope import Scope, enter, leave
from wsgi_defer._runtime import report, threads
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.flask import Defer
from wsgi_defer.observers._observers import Observers
from wsgi_defer.pools import ThreadPool, _threads
from wsgi_defer.pools._deadlines import Deadlines

from ...helpers.waiting import until

user = ContextVar("user", default="nobody")


class Hearing(Observer):
    """Keeps what it hears, and of which user."""

    def __init__(self):
        self.heard = []

    def note(event):  # noqa: N805
        def method(self, call, scope, *what):
            self.heard.append((event, call.label, user.get()))

        return method

    started, finished, failed = note("started"), note("finished"), note("failed")
    skipped, lost = note("skipped"), note("lost")
    slow, overran = note("slow"), note("overran")


@pytest.fixture
def hearing():
    return Hearing()


@pytest.fixture
def logged():
    """The users in whose contexts lines were logged."""
    users = []

    def note(record):
        users.append(user.get())
        return True

    report.logger.addFilter(note)
    level = report.logger.level
    report.logger.setLevel(logging.DEBUG)
    yield users
    report.logger.setLevel(level)
    report.logger.removeFilter(note)


def scope_of(name, *calls, **options):
    """A scope with calls that this user has deferred; ``call`` is given no arguments
    and returns the deferred call."""
    scope = Scope(Options(**options))

    def view():
        user.set(name)
        token = enter(scope)
        for call in calls:
            call()
        leave(token)

    copy_context().run(view)
    return scope


def fail(*anything):
    raise ValueError


def test_each_event_is_told_in_the_context_of_its_call(hearing, logged):
    """Whatever becomes of it, and whoever happens to tell."""
    calls = [
        lambda: defer(int).named("good"),
        lambda: defer(fail).named("bad"),
        lambda: defer(int).when(fail).named("asked in vain"),
        lambda: defer(int).on_failure().named("not wanted"),
        lambda: defer(int).named("cancelled").cancel(),
    ]
    scopes = [
        scope_of(name, *calls, observers=Observers([hearing]))
        for name in ("ann", "bob")
    ]
    user.set("else")
    for scope in scopes:
        drain(scope, Outcome(200))
    names = ["good", "bad", "asked in vain", "not wanted", "cancelled"]
    for name, heard in ("ann", hearing.heard[:7]), ("bob", hearing.heard[7:]):
        assert {each[2] for each in heard} == {name}
        assert [each[1] for each in heard if each[0] != "started"] == names
    assert logged == ["ann"] * 5 + ["bob"] * 5
    user.set("nobody")


def test_a_predicate_sees_the_context_of_its_call():
    """As the call itself does."""
    seen = []
    scope = scope_of("ann", lambda: defer(int).when(lambda _: seen.append(user.get())))
    drain(scope, Outcome(200))
    assert seen == ["ann"]


def test_lost_calls(hearing, logged):
    """By a garbage collection in another request, for one, or by another thread while
    a call runs in that context."""
    scope = scope_of("ann", lambda: defer(int), observers=Observers([hearing]))
    del scope
    gc.collect()
    go, began = threading.Event(), threading.Event()

    def running():
        user.set("changed")
        began.set()
        go.wait(20)

    scope = scope_of("bob", lambda: defer(running), observers=Observers([hearing]))
    background.submit(scope, Outcome(200), background.nothing_to_wait_for)
    began.wait(20)
    try:
        background.report_lost(scope, "the end")
    finally:
        go.set()
    assert [each[::2] for each in hearing.heard if each[0] == "lost"] == [
        ("lost", "ann"),
        ("lost", "changed"),
    ]
    assert logged == ["ann", "changed"]


def test_slow_calls_and_those_past_their_limit(hearing, monkeypatch):
    """The thread that watches says so in the context of the call."""
    monkeypatch.setattr(watch, "GRACE", 0)
    told = threading.Event()
    hearing.overran = lambda *_: (hearing.heard.append(user.get()), told.set())
    scope = scope_of(
        "ann", lambda: defer(told.wait, 20), time_limit=0.01,
        observers=Observers([hearing]),
    )  # fmt: skip
    background.submit(scope, Outcome(200), background.nothing_to_wait_for)
    assert background.join(20)
    assert "ann" in hearing.heard


@pytest.mark.parametrize("at", ["call", "end"])
def test_what_is_around_a_call_is_there_for_its_report(at, hearing, logged):
    """Also if its own end fails."""

    @contextmanager
    def around():
        token = user.set("around")
        try:
            yield
        finally:
            user.reset(token)
            if at == "end":
                raise ValueError

    call = fail if at == "call" else int
    scope = scope_of(
        "ann", lambda: defer(call), around=around, observers=Observers([hearing])
    )
    drain(scope, Outcome(200))
    assert [(event, name) for event, _, name in hearing.heard] == [
        ("started", "ann"),
        ("failed", "around"),
    ]
    assert logged == ["around"]
    assert user.get() == "nobody"


def test_what_is_around_a_call_may_take_its_error():
    """Then it has returned None."""

    @contextmanager
    def around():
        try:
            yield
        except ValueError:
            pass

    with deferring(around=around):
        call = defer(fail)
    assert call.result() is None


def test_a_filter_that_reads_flasks_request(monkeypatch, capsys):
    """It finds the request of the call, and what the call has put into g."""
    seen = []

    def note(record):
        seen.append((request.args["user"], g.get("tenant")))
        return True

    app = Flask(__name__)
    Defer(app)

    def call():
        g.tenant = "acme"
        raise ValueError

    @app.get("/")
    def view():
        defer(call)
        return "done"

    def ends_badly():
        g.ends_badly = True

    @app.get("/teardown")
    def teardown():
        defer(ends_badly)
        return "done"

    @app.teardown_appcontext
    def end(error):
        if "ends_badly" in g:
            raise ValueError

    report.logger.addFilter(note)
    try:
        app.test_client().get("/?user=ann")
        app.test_client().get("/teardown?user=bob")
    finally:
        report.logger.removeFilter(note)
    assert seen == [("ann", "acme"), ("bob", None)]
    assert "could not take" not in capsys.readouterr().err


def test_threads_of_ours_start_in_an_empty_context(monkeypatch):
    """Also if a tool gives each thread the context of its starter, or Python does."""
    started = {}
    start = threading.Thread.start

    def noting(thread):
        started[thread.name] = user.get()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noting)
    monkeypatch.setattr(background, "_background", PerProcess(background._Background))
    monkeypatch.setattr(watch, "watch", PerProcess(watch.Watch))
    monkeypatch.setattr(_threads, "deadlines", PerProcess(Deadlines))

    def request():
        user.set("ann")
        with deferring(slow_after=60, pools={"default": ThreadPool(1)}):
            pool().submit(int).result()
            defer(int)
        scope = scope_of("ann", lambda: defer(int))
        background.submit(scope, Outcome(200), background.nothing_to_wait_for)
        assert background.join(20)
        threads.start(threading.Thread(target=int, name="ours"))

    copy_context().run(request)
    until(lambda: "ours" in started)
    ours = {
        "wsgi_defer",
        *(f"wsgi_defer-{of}" for of in ("watch", "pool", "deadlines")),
    }
    assert ours | {"ours"} <= set(started)
    assert set(started.values()) == {"nobody"}
