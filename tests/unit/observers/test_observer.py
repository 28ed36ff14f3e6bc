"""Observers: who hears what, when, and what if one of them fails."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Observer,
    Outcome,
    Scope,
    ScopeClosedError,
    background,
    before_response,
    current_scope,
    defer,
    deferring,
    forget,
)
from wsgi_defer._calls.drain import drain, report_lost
from wsgi_defer._calls.options import Options
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._runtime import host
from wsgi_defer.observers._datadog import TraceKeeper
from wsgi_defer.observers._observer import EVENTS
from wsgi_defer.observers._observers import (
    Observers,
    observe_process,
    stop_observing,
)

from ...helpers.client import get, make_environ, text_app
from ...helpers.orders import handle_abort


class Heard(Observer):
    """Writes down every event, with the call's label."""

    def __init__(self):
        self.events = []

    def queued(self, call, scope):
        self.events.append(("queued", call.label))

    def started(self, call, scope):
        self.events.append(("started", call.label))

    def finished(self, call, scope):
        self.events.append(("finished", call.label))

    def failed(self, call, scope, error):
        self.events.append(("failed", call.label, type(error)))

    def skipped(self, call, scope, why):
        self.events.append(("skipped", call.label, why))

    def lost(self, call, scope, why):
        self.events.append(("lost", call.label, why))

    def ends(self):
        """The ends, without what was said of them."""
        kinds = ("finished", "failed", "skipped", "lost")
        return [event[:2] for event in self.events if event[0] in kinds]


@pytest.fixture
def heard():
    return Heard()


def fail():
    raise ValueError("boom")


def test_the_life_of_a_call(heard):
    """Each is queued and started, and has one end, in that order."""

    def view():
        defer(int)
        defer(fail)
        before_response(float)

    get(DeferMiddleware(text_app(view), observers=[heard]))
    me = f"{__name__}.fail"
    assert heard.events == [
        ("queued", "builtins.int"),
        ("queued", me),
        ("queued", "builtins.float"),
        ("started", "builtins.float"),
        ("finished", "builtins.float"),
        ("started", "builtins.int"),
        ("finished", "builtins.int"),
        ("started", me),
        ("failed", me, ValueError),
    ]


def test_every_way_not_to_run_is_told_once(heard):
    """Cancelled, forgotten, renamed, unwanted, lost."""
    with deferring(observers=[heard]) as scope:
        defer(int).named("cancelled").cancel()
        defer(int).named("twice")
        defer(int).named("twice")
        defer(int).named("forgotten")
        forget("forgotten")
        defer(int).named("unwanted").on_failure()
        defer(int).named("asks").when(lambda outcome: 1 / 0)
    assert heard.ends() == [
        ("skipped", "cancelled"),
        ("skipped", "twice"),
        ("finished", "twice"),
        ("skipped", "forgotten"),
        ("skipped", "unwanted"),
        ("failed", "asks"),
    ]
    assert (scope.finished, scope.failed, scope.skipped, scope.lost) == (1, 1, 4, 0)


def test_lost(heard):
    """Told once, even if it is said twice, and the scope counts it."""
    with deferring(observers=[heard]) as scope:
        defer(int)
        report_lost(scope, "the end")
        report_lost(scope, "the end")
    assert heard.events[1:] == [("lost", "builtins.int", "the end")]
    assert (scope.lost, scope.skipped) == (1, 0)


def test_held_calls_of_a_failed_request(heard):
    """Those of before_response() are skipped, and told so."""

    def view():
        before_response(int)
        defer(float)

    get(DeferMiddleware(text_app(view, status="404 Not Found"), observers=[heard]))
    assert heard.ends() == [("skipped", "builtins.int"), ("skipped", "builtins.float")]


def test_what_can_be_read(heard):
    """The outcome, with the duration; the times of the call; the request's id."""
    seen = []

    class Reader(Observer):
        def started(self, call, scope):
            seen.append((call.waited >= 0, call.ran >= 0, scope.outcome.status))

        def finished(self, call, scope):
            seen.append(
                (call.ran >= 0.02, scope.outcome.delivered, scope.outcome.duration > 0)
            )
            seen.append(scope.request_id)

        def queued(self, call, scope):
            seen.append((call.ran, scope.outcome))

    app = DeferMiddleware(
        text_app(lambda: defer(time.sleep, 0.02)), observers=[Reader()]
    )
    get(app, environ=make_environ(HTTP_X_REQUEST_ID="abc-1"))
    assert seen == [(None, None), (True, True, 200), (True, True, True), "abc-1"]


@pytest.mark.parametrize("given", ["two\nlines", "", "x" * 64, "ünicode", "a b"])
def test_a_request_id_that_is_none(given):
    """What cannot be trusted in a log is replaced by a number of our own."""
    scopes = []
    app = DeferMiddleware(text_app(lambda: scopes.append(current_scope())))
    get(app, environ=make_environ(HTTP_X_REQUEST_ID=given))
    get(app, environ=make_environ())
    first, second = (scope.request_id for scope in scopes)
    assert given not in (first, "\n") or not given
    assert first != second
    assert first == scopes[0].request_id  # it stays what it is


@pytest.mark.parametrize("error", [ValueError, GeneratorExit, SystemExit])
def test_an_observer_that_raises_harms_nobody(heard, ran, caplog, error):
    """It is logged once for each of its methods, and the others hear all."""

    class Broken(Observer):
        def queued(self, call, scope):
            raise error

        finished = queued

    app = DeferMiddleware(
        text_app(lambda: defer(ran.append, 1)), observers=[Broken(), heard]
    )
    for _ in range(3):
        assert get(app).body == b"hello"
    assert ran == [1, 1, 1]
    assert heard.ends() == [("finished", "list.append")] * 3
    errors = [r for r in caplog.records if "the observer" in r.getMessage()]
    assert len(errors) == 1  # the two names are one function
    assert "Broken raised in queued()" in errors[0].getMessage()


def test_a_filter_of_the_log_that_raises(ran):
    """There is nowhere left to say so; the calls run."""

    class Broken(Observer):
        def started(self, call, scope):
            raise ValueError

    def refuse(record):
        raise RuntimeError

    logger = logging.getLogger("wsgi_defer")
    logger.addFilter(refuse)
    try:
        with deferring(observers=[Broken()]):
            defer(ran.append, 1)
    finally:
        logger.removeFilter(refuse)
    assert ran == [1]


def test_what_is_no_observer():
    """It is said at once, not when the first call has run."""
    with pytest.raises(TypeError, match="this one is function, which has none"):
        DeferMiddleware(text_app(int), observers=[lambda: None])


def test_any_object_with_the_methods_will_do(ran):
    """It need not be an Observer."""

    class Duck:
        def finished(self, call, scope):
            ran.append(call.label)

    with deferring(observers=[Duck()]):
        defer(int)
    assert ran == ["builtins.int"]


def test_an_observer_of_the_whole_process(heard):
    """It hears of every scope, also of those whose middleware was made before."""
    app = DeferMiddleware(text_app(lambda: defer(int)))
    get(app)
    observe_process(heard)
    try:
        get(app)
        with deferring():
            defer(float)
    finally:
        stop_observing(heard)
    stop_observing(heard)  # once more, which is nothing
    get(app)
    assert heard.ends() == [
        ("finished", "builtins.int"),
        ("finished", "builtins.float"),
    ]


def test_the_events_are_those_of_the_contract():
    """One for each method of Observer."""
    assert EVENTS == (
        "queued", "started", "finished", "failed", "skipped", "lost", "slow", "overran",
    )  # fmt: skip


def test_all_methods_of_observer_do_nothing():
    """A subclass may call super()."""
    nobody = Observer()
    for event in EVENTS:
        more = {"failed": 1, "skipped": 1, "lost": 1, "slow": 2, "overran": 2}
        assert getattr(nobody, event)(*[None] * (2 + more.get(event, 0))) is None


@pytest.mark.parametrize("register", [defer, before_response])
@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_another_thread_drops_as_it_begins(heard, register, fails):
    """It was told to be lost, so its end is not told."""

    def drop():
        scope.lose(scope.running, "too many")
        scope.lose(scope.running, "told already")
        if fails:
            raise ValueError

    failing = fails and register is before_response
    with (
        pytest.raises(ValueError) if failing else contextlib.nullcontext(),
        deferring(observers=[heard]) as scope,
    ):
        register(drop).named("dropped")
    assert heard.ends() == [("lost", "dropped")]
    assert (scope.finished, scope.failed, scope.lost) == (0, 0, 1)


def test_too_late(heard, monkeypatch):
    """A call that came between the last look and the end is taken back, and told."""

    class Closing(Observer):
        def queued(self, call, scope):
            scope.closed = True

    with deferring(observers=[heard, Closing()]) as scope:
        with pytest.raises(ScopeClosedError):
            defer(int)
        scope.closed = False
    assert heard.ends() == [("skipped", "builtins.int")]


def order_to_stop():
    """What gunicorn's signal handlers raise, even from a hook of the user's."""
    module = {"__name__": "gunicorn.workers.base"}
    exec("def handle_abort(hook): hook()", module)
    module["handle_abort"](sys.exit)


def test_a_cancelled_call_is_not_lost(heard):
    """Whatever becomes of the others."""
    with deferring(observers=[heard]) as scope:
        defer(int).named("waits")
        defer(int).named("cancelled").cancel()
        report_lost(scope, "the end")
    scope = Scope(Options(observers=Observers([heard])))
    token = enter(scope)
    defer(float).cancel()
    leave(token)
    del scope, token
    gc.collect()
    assert heard.ends() == [
        ("lost", "waits"),
        ("skipped", "cancelled"),
        ("skipped", "builtins.float"),
    ]


def test_a_held_call_that_is_cut_off(heard):
    """It is lost, with those after it, held or not."""

    def view():
        before_response(order_to_stop).named("cut off")
        before_response(int).named("held")
        defer(int).named("deferred")

    with pytest.raises(SystemExit):
        get(DeferMiddleware(text_app(view), observers=[heard]))
    assert background.join(10)
    with pytest.raises(SystemExit), deferring(observers=[heard]):
        view()
    ends = [("lost", "cut off"), ("lost", "held"), ("lost", "deferred")]
    assert sorted(heard.ends()) == sorted(2 * ends)


def test_stopped_while_an_end_is_told(heard, caplog):
    """All hear of it before the order goes on, and the log says it once more than
    never."""

    class Blocked(Observer):
        def failed(self, call, scope, error):
            order_to_stop()

    class Interrupted(logging.Filter):
        times = 0

        def filter(self, record):
            self.times += 1
            if self.times == 1:
                order_to_stop()
            return True

    observe_process(heard)
    try:
        with pytest.raises(SystemExit), deferring(observers=[Blocked()]):  # noqa: PT012
            defer(fail)
            defer(int)
        logging.getLogger("wsgi_defer").addFilter(interrupted := Interrupted())
        with pytest.raises(SystemExit), deferring():
            defer(fail).named("the second")
    finally:
        stop_observing(heard)
        logging.getLogger("wsgi_defer").removeFilter(interrupted)
    assert heard.ends() == [
        ("failed", f"{__name__}.fail"),
        ("lost", "builtins.int"),
        ("failed", "the second"),
    ]
    assert "fail failed" in caplog.text
    assert "the second failed" in caplog.text


def test_lost_before_it_began(heard, ran):
    """By another thread, between the two lines that take it and begin it."""

    class Dropping(Scope):
        def take(self):
            call = super().take()
            if call is not None:
                self.lose(call, "dropped")
            return call

    scope = Dropping(Options(observers=Observers([heard])))
    token = enter(scope)
    defer(ran.append, 1)
    leave(token)
    drain(scope, Outcome(200))
    assert ran == []
    assert [event[0] for event in heard.events] == ["queued", "lost"]


def test_the_outcome_of_lost_calls_and_the_duration():
    """Known from the end of the response on; the app's close() is not part of it."""
    seen = []

    class Reader(Observer):
        def lost(self, call, scope, why):
            seen.append(scope.outcome)

    class Body:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closing.append(time.monotonic())
            time.sleep(0.01)

    def app(environ, start_response):
        defer(order_to_stop).named("stops")
        start_response("200 OK", [])
        return Body()

    began, closing = time.monotonic(), []
    with pytest.raises(SystemExit):
        get(DeferMiddleware(app, observers=[Reader()], inline=True))
    (outcome,) = seen
    assert outcome.status == 200
    assert 0 < outcome.duration <= closing[0] - began
    assert outcome.error is None


def test_a_failure_of_our_own(caplog, monkeypatch):
    """It is no order to stop; what is lost by it is named all the same."""

    class Broken(host.Host):
        def client_waiting(self):
            raise OSError

    monkeypatch.setattr(host, "current", Broken())
    app = DeferMiddleware(text_app(lambda: defer(int)), inline=True, when_busy="thread")
    with pytest.raises(OSError):
        get(app)
    assert "builtins.int lost: wsgi_defer failed with OSError" in caplog.text


def test_a_deaf_observer_is_refused():
    """One that hides a method of its own, and a class in place of an object."""

    class Counter(Observer):
        def __init__(self):
            self.failed = 0

        def finished(self, call, scope):
            """Count."""

    for given, said in (
        (Counter(), r"Counter\.failed is int"),
        (Counter, "not the cl"),
    ):
        with pytest.raises(TypeError, match=said):
            DeferMiddleware(text_app, observers=[given])
        with pytest.raises(TypeError, match=said), deferring(observers=[given]):
            pass


class Tracer:
    """As Datadog's, as far as it matters here."""

    def __init__(self):
        self.active = ContextVar("active", default=None)
        self.context_provider = SimpleNamespace(activate=self.active.set)

        self.spans = []

    def current_trace_context(self):
        return self.active.get()

    def trace(self, name, resource, span_type):
        span = Span(name=name, resource=resource, parent=self.active.get(), error=0)
        self.spans.append(span)
        return span


class Span(SimpleNamespace):
    finished = 0

    def set_tag(self, name, value):
        setattr(self, name, value)

    set_metric = set_tag

    def set_exc_info(self, kind, error, trace):
        self.error = error

    def finish(self):
        self.finished += 1


class Trace(SimpleNamespace):
    def copy(self, trace_id, span_id):
        return Trace(trace_id=trace_id, span_id=span_id)


@pytest.fixture
def tracer(monkeypatch):
    module = SimpleNamespace(tracer=Tracer())
    monkeypatch.setitem(sys.modules, "ddtrace", module)
    return module.tracer


def test_a_call_stays_in_its_trace(tracer, ran):
    """Its context points to the trace, which does not end with a span. The context of
    the view stays as it is."""
    trace = Trace(trace_id=1, span_id=2)
    token = tracer.active.set(trace)
    with deferring(observers=[Heard()]):
        defer(lambda: ran.append(tracer.active.get()))
        assert tracer.active.get() is trace
        tracer.active.reset(token)
        defer(lambda: ran.append(tracer.active.get()))
    seen, none = ran
    assert (seen.trace_id, seen.span_id, seen._reactivate) == (1, 2, True)
    assert not hasattr(trace, "_reactivate")
    assert none is None


def test_a_call_has_a_span(tracer):
    """With how it ended. One that does not start has none."""

    def run():
        with deferring(observers=[Heard()]):
            defer(int).named("one")
            defer(fail).named("two")
            defer(int).when(lambda outcome: 1 / 0)
            defer(handle_abort).named("three")
            defer(int)

    with pytest.raises(SystemExit):
        run()
    one, two, three = tracer.spans
    names = [(span.name, span.resource, span.finished) for span in tracer.spans]
    assert names == [("wsgi_defer.call", name, 1) for name in ("one", "two", "three")]
    assert one.error == 0
    assert isinstance(two.error, ValueError)
    assert three.error == 1
    assert vars(three)["error.message"] == "lost: the process was told to stop"
    assert vars(one)["wsgi_defer.origin"].startswith(__file__)


def test_without_a_tracer_nobody_hears_of_a_new_call():
    """So nothing is paid for it."""
    assert Observers().queued == ()


def test_a_call_that_has_ended_before_the_tracer_hears_of_it(tracer, ran):
    """Another thread was that quick; its context is gone."""
    tracer.active.set(Trace(trace_id=1, span_id=2))
    with deferring():
        call = defer(ran.append, 1)
    assert call.context is None
    TraceKeeper().queued(call, None)
    assert ran == [1]
