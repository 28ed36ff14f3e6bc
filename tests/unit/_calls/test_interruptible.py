"""Where a time limit ends a call, and where it waits; and the clean-up after it."""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import signal
import sys
import threading
import time

import pytest

from wsgi_defer import DeferMiddleware, TimeLimitError, defer, deferring
from wsgi_defer._calls import limit, watch
from wsgi_defer._calls.interruptible import blocker
from wsgi_defer._calls.options import Options
from wsgi_defer._runtime import host

from ...helpers.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("the_alarm_is_as_it_was")


def in_module(name):
    """A function of a module with that name, which calls another one."""
    module = {"__name__": name}
    exec("def run(inner, *args):\n    return inner(*args)", module)
    return module["run"]


def blocked_at():
    """The module of the frame that this one must not be interrupted for."""
    found = blocker(sys._getframe())
    return found and found.f_globals["__name__"]


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ([], None),
        (["queue"], "queue"),
        (["threading"], "threading"),
        (["logging.handlers"], "logging.handlers"),
        (["concurrent.futures._base"], "concurrent.futures._base"),
        (["sqlalchemy.pool.impl"], "sqlalchemy.pool.impl"),
        (["wsgi_defer.jobs.engines.rq.client"], "wsgi_defer.jobs.engines.rq.client"),
        (["sqlalchemy.engine.base", "app.queue", "queues"], None),
        (["wsgi_defer.jobs._watch"], "wsgi_defer.jobs._watch"),
        (["coverage.collector"], "coverage.collector"),
        (["coverage", "coverage.policies"], None),  # a package of the app's
        (["wsgi_defer.jobs.engines.memory"], None),  # it runs jobs
        (["logging", "app", "queue", "app"], "logging"),
        (["logging", "wsgi_defer._calls.invoke"], None),
        (["wsgi_defer._calls.invoke", "queue"], "queue"),
    ],
)
def test_the_outermost_one_counts(modules, found):
    """Of the frames of this call: what runs inside of it may hold no lock, but it."""
    modules.insert(0, "wsgi_defer._calls.invoke")
    where = in_module(modules[0])
    args = [*map(in_module, modules[1:]), blocked_at]
    assert where(*args) == found


def busy(seconds, then=int):
    """Code that a strike would break."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
    then()


@pytest.mark.parametrize(
    "module", ["queue", "logging", "sqlalchemy.pool.base", "coverage.sysmon"]
)
def test_it_comes_to_its_end_there(seen, ran, module, clock, monkeypatch):
    """And the call is ended just after that."""
    monkeypatch.setattr(watch, "GRACE", PATIENCE)
    inside = in_module(module)

    def reach_the_limit():
        clock.skip(PATIENCE)
        busy(0.1, lambda: ran.append("came to its end"))

    def work():
        inside(reach_the_limit)
        while True:
            pass

    with deferring(observers=[seen]):
        defer(work).time_limit(PATIENCE)
        defer(ran.append, "the next one")
    assert ran == ["came to its end", "the next one"]
    assert [type(error) for error in seen.errors] == [TimeLimitError]


@pytest.fixture
def nobody_traces():
    """As without coverage, which this cannot be measured with."""
    before = sys.gettrace()
    sys.settrace(None)
    yield
    assert sys.gettrace() is None
    sys.settrace(before)


def put_and_get(inside):
    inside(busy, 0.05)


def in_a_loop(inside):
    while True:
        inside(busy, 0.05)


def in_a_function_of_it(inside):
    while True:
        put_and_get(inside)


def in_a_generator(inside):
    def values():
        while True:
            yield inside(busy, 0.05)

    for _ in values():
        pass


@pytest.mark.parametrize("work", [in_a_loop, in_a_function_of_it, in_a_generator])
def test_a_loop_that_is_nearly_always_there(seen, nobody_traces, work):
    """It is ended when it is not, however short that is."""
    began = time.monotonic()
    with deferring(observers=[seen]):
        defer(work, in_module("queue")).time_limit(0.02)
    assert time.monotonic() - began < PATIENCE
    assert [type(error) for error in seen.errors] == [TimeLimitError]


def test_locks_are_free_afterwards(seen, nobody_traces):
    """Of queues and handlers of the log, whose methods are nearly all that runs."""

    def through_a_queue():
        while True:
            waiting.put(1)
            waiting.get()

    def into_the_log():
        while True:
            logger.info("again")

    waiting = queue.Queue()
    logger, handler = logging.Logger("its own"), logging.Handler()
    logger.addHandler(handler)
    handler.emit = id
    free = []
    with deferring(observers=[seen]):
        for number in range(60):
            work = into_the_log if number % 2 else through_a_queue
            defer(work).time_limit(0.002 + number / 1e5)
    thread = threading.Thread(
        target=lambda: free.extend(
            [waiting.mutex.acquire(blocking=False), handler.lock.acquire(False)]
        )
    )
    thread.start()
    thread.join()
    assert free == [True, True]
    assert {type(error) for error in seen.errors} == {TimeLimitError}


def wait_for_a_queue(go):
    queue.Queue().get(timeout=PATIENCE)


def wait_for_an_event(go):
    go.wait(PATIENCE)


def wait_for_a_future(go):
    concurrent.futures.Future().result(PATIENCE)


def wait_for_a_thread(go):
    thread = threading.Thread(target=go.wait, daemon=True)
    thread.start()
    thread.join(PATIENCE)


@pytest.mark.parametrize(
    "wait", [wait_for_a_queue, wait_for_an_event, wait_for_a_future, wait_for_a_thread]
)
def test_a_wait_is_ended(seen, wait):
    """It holds no lock."""
    go = threading.Event()
    began = time.monotonic()
    with deferring(observers=[seen]):
        defer(wait, go).time_limit(0.05)
    assert time.monotonic() - began < PATIENCE
    go.set()
    assert [type(error) for error in seen.errors] == [TimeLimitError]


def test_a_wait_inside_of_something_else(seen, ran, caplog, clock, monkeypatch):
    """A handler of the log has its own lock meanwhile. It runs on, which is reported;
    and then the call is ended."""
    monkeypatch.setattr(watch, "GRACE", 0.0)

    class Slow(logging.Handler):
        def emit(self, record):
            clock.skip(PATIENCE)
            until(lambda: seen.over)
            woken.wait(0.05)
            ran.append(record.getMessage())

    def work():
        logger.error("from the call")
        while True:
            pass

    woken = threading.Event()
    logger = logging.Logger("its own")
    logger.addHandler(Slow())
    with deferring(observers=[seen]):
        defer(work).time_limit(PATIENCE)
    assert ran == ["from the call"]
    assert [type(error) for error in seen.errors] == [TimeLimitError]
    (label, _, stack) = seen.over[0]
    assert "in emit" in stack
    assert f"{label} is still running past its time limit" in caplog.text


@pytest.fixture
def alarm(monkeypatch):
    """An alarm that is due, how Python is told to trace, which it does not do, and what
    the timer is set to, which would end this process."""
    traces = [None]
    monkeypatch.setattr(sys, "gettrace", lambda: traces[-1])
    monkeypatch.setattr(sys, "settrace", traces.append)
    alarm = limit._Alarm(host.TimeUp(), PATIENCE)
    alarm.traces, alarm._until = traces, 0.0
    alarm.armed = []
    monkeypatch.setattr(alarm, "_arm", alarm.armed.append)
    return alarm


def test_steps_of_the_next_line(alarm):
    """From function to function, up to a line that may be interrupted."""

    def alarm_in(frame):
        alarm(signal.SIGALRM, frame)
        assert alarm._traced is frame.f_back.f_back
        alarm(signal.SIGALRM, frame)  # the second look
        assert alarm.traces[-1] == alarm._trace_none
        assert alarm.traces[-1](frame, "call", None) is None
        traced = alarm._traced
        traced.f_trace(traced, "exception", None)
        alarm._trace_caller(frame, "line", None)  # it is still in there
        traced.f_trace(traced, "return", None)
        assert alarm._traced is traced.f_back
        assert traced.f_trace is None

    def step():
        in_module("queue")(lambda: alarm_in(sys._getframe()))

    step()
    frame = sys._getframe()
    assert alarm._traced is frame
    with pytest.raises(host.TimeUp):
        frame.f_trace(frame, "line", None)
    assert alarm._traced is frame.f_trace is alarm.traces[-1] is None


def test_steps_after_the_end(alarm):
    """Nothing is raised, or traced, any more."""
    frame = sys._getframe()
    alarm._trace(frame)
    alarm._until = None
    alarm._trace_caller(frame, "line", None)
    alarm._trace_caller(frame, "return", None)
    assert alarm._traced is None


def test_who_traces_is_left_alone(alarm):
    """A debugger. Then it looks from time to time."""
    alarm.traces.append(print)
    in_module("queue")(lambda: alarm(signal.SIGALRM, sys._getframe()))
    assert alarm._traced is None
    assert alarm.armed == [limit.SOON]
    alarm._traced = sys._getframe()  # it came later
    alarm._stop_tracing()
    assert alarm.traces[-1] is print


def clean_up_for(seconds, note, clock):
    try:
        clock.skip(PATIENCE)  # it has reached its limit
        busy(PATIENCE)
    finally:
        busy(seconds)
        note()


def test_clean_up_has_its_time(seen, ran, clock):
    """A second was too little for a database."""
    assert Options().time_limit_grace >= 5
    with deferring(observers=[seen], time_limit_grace=PATIENCE):
        call = defer(clean_up_for, 1.2, lambda: ran.append("clean"), clock)
        call.time_limit(PATIENCE)
    assert ran == ["clean"]
    assert [type(error) for error in seen.errors] == [TimeLimitError]


def test_clean_up_that_never_ends(seen, ran, clock):
    """It is ended, too."""
    app = DeferMiddleware(int, time_limit_grace=1)
    with deferring(observers=[seen]) as scope:
        scope.options = scope.options._replace(
            time_limit_grace=app.options.time_limit_grace
        )
        call = defer(clean_up_for, PATIENCE, lambda: ran.append("clean"), clock)
        call.time_limit(PATIENCE)
        defer(ran.append, "the next one")
    assert ran == ["the next one"]
    assert [type(error) for error in seen.errors] == [TimeLimitError]


@pytest.mark.parametrize(("patience", "left"), [(3, 3), (-1, limit.AGAIN), (60, 5)])
def test_clean_up_within_the_limits_of_the_worker(alarm, monkeypatch, patience, left):
    """What is ended by gunicorn is lost; what we end has failed."""

    class Impatient(host.Host):
        def patience(self):
            return patience

    monkeypatch.setattr(host, "current", Impatient())
    monkeypatch.setattr(limit, "monotonic", lambda: 100)
    alarm._grace = 5
    with pytest.raises(host.TimeUp):
        alarm(signal.SIGALRM, sys._getframe())
    assert alarm._until == 100 + left


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_grace_that_makes_no_sense(seconds):
    """It is refused at once."""
    with pytest.raises(ValueError, match="time_limit_grace takes seconds"):
        DeferMiddleware(int, time_limit_grace=seconds)
