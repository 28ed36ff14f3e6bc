"""Time limits, and the thread that watches for slow calls."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware, TimeLimitError, background, defer, deferring
from wsgi_defer._calls import limit, watch
from wsgi_defer._runtime import host
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.gunicorn._host import GeventHost

from ...helpers.client import get, text_app
from ...helpers.limits import Clock, sleep_on
from ...helpers.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("the_alarm_is_as_it_was")


def spin():
    while True:
        pass


@pytest.mark.promise("N15")
@pytest.mark.parametrize("work", [sleep_on, spin])
def test_a_call_is_ended_at_its_limit(seen, ran, work, monkeypatch):
    """The error names it and the limit; the next one runs."""
    monkeypatch.setattr(watch, "GRACE", 5)  # which a busy machine may need
    began = time.monotonic()
    with deferring(observers=[seen]):
        defer(work).named("the long one").time_limit(0.05)
        defer(ran.append, 1)
    assert time.monotonic() - began < 5
    assert ran == [1]
    (error,) = seen.errors
    assert (type(error), error.call, error.seconds) == (
        TimeLimitError, "the long one", 0.05,
    )  # fmt: skip
    assert (
        "the deferred call the long one was ended at its time limit of 0.05 s"
        in str(error)
    )
    assert seen.over == []


def test_a_call_within_its_limit(seen, ran):
    """Nothing is armed when the next one runs."""
    with deferring(observers=[seen], time_limit=5):
        defer(ran.append, 1)
        defer(lambda: ran.append(signal.getitimer(signal.ITIMER_REAL)[0] > 0))
        defer(int, "x")
    assert ran == [1, True]
    assert [type(error) for error in seen.errors] == [ValueError]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_limits_that_make_no_sense(seconds):
    """Refused at the line that says them."""
    with deferring(), pytest.raises(ValueError, match="time_limit takes seconds"):
        defer(int).time_limit(seconds)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_no_limit(seen, ran, seconds):
    """Infinity takes back the limit of the middleware; a long one is no error."""
    with deferring(observers=[seen], time_limit=0.02):
        defer(sleep_on, 0.03).time_limit(seconds)
        defer(ran.append, 1).time_limit(seconds)
    assert ran == [1]
    assert seen.errors == []


def test_an_alarm_without_a_handler(seen):
    """It would have ended the process. The limit holds all the same."""

    def theirs():
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        sleep_on()

    with deferring(observers=[seen]):
        defer(theirs).time_limit(0.05)
    assert isinstance(seen.errors[0], TimeLimitError)


def test_a_limit_inside_a_limit(seen, caplog, monkeypatch):
    """The outer one has the alarm, and ends both."""
    clock = Clock(monkeypatch)

    def inner():
        clock.skip(60)
        sleep_on()

    def outer():
        with deferring(observers=[seen]):
            defer(inner).named("the inner one").time_limit(100)

    with deferring(observers=[seen]):
        defer(outer).time_limit(50)
    assert [error.seconds for error in seen.errors] == [50]
    assert "the inner one lost while it ran" in caplog.text
    assert "the call that waits for it was ended at its time limit" in caplog.text


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *args: None])
def test_a_handler_that_replaces_ours(seen, theirs):
    """Without an alarm of its own. Ours is not left armed, to hit it later."""

    def replace():
        signal.signal(signal.SIGALRM, theirs)

    with deferring(observers=[seen]):
        defer(replace).time_limit(5)
        defer(lambda: timers.append(signal.getitimer(signal.ITIMER_REAL)))
        timers = []
    assert signal.signal(signal.SIGALRM, signal.SIG_DFL) is theirs
    assert timers == [(0, 0)]


def test_an_alarm_that_cannot_be_had(seen, ran, monkeypatch):
    """mod_wsgi ignores signal.signal(); an alarm would then end the process."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: signal.SIG_DFL)
    with deferring(observers=[seen]):
        defer(ran.append, 1).time_limit(5)
    assert ran == [1]
    assert seen.errors == []


def test_the_alarm_that_comes_too_late():
    """Between the end of the call and ours: nothing is raised."""
    alarm = limit._Alarm(host.TimeUp(), 5)
    alarm(signal.SIGALRM, None)


def test_on_another_thread_it_is_reported(seen, caplog, monkeypatch):
    """With the stack, once, and while it runs; it comes to its own end."""
    monkeypatch.setattr(watch, "GRACE", 0.0)
    ended = []

    def long():
        until(lambda: seen.over)
        ended.append(True)

    def view():
        defer(long).time_limit(0.05)

    get(DeferMiddleware(text_app(view), inline=False, observers=[seen]))
    assert background.join(PATIENCE)
    assert ended == [True]
    assert seen.errors == []
    (label, seconds, stack) = seen.over[0]
    assert seconds >= 0.05
    assert "in long" in stack
    assert "_drain.py" not in stack
    assert "is still running past its time limit" in caplog.text
    assert label in caplog.text


def test_the_watch_beats_for_a_call_within_its_limit(monkeypatch):
    """The master is not to take the worker for stuck; after the limit, it is."""

    class Heart(host.Host):
        beats = []

        def beat(self, thread=None):
            if thread is not None:
                self.beats.append((thread, time.monotonic()))

    monkeypatch.setattr(host, "current", Heart())
    with deferring():
        defer(until, lambda: len(Heart.beats) >= 2).time_limit(10)
    assert len(Heart.beats) >= 2
    assert {thread for thread, _ in Heart.beats} == {threading.get_ident()}


def test_a_host_with_limits_of_its_own(monkeypatch, ran):
    """gevent's, for one, is asked first."""

    class Gevent(host.Host):
        def call_within(self, seconds, up, run):
            ran.append(seconds)
            run()
            return True

    monkeypatch.setattr(host, "current", Gevent())
    with deferring():
        defer(ran.append, "ran").time_limit(3)
    assert ran == [3, "ran"]


def test_the_watch_waits_when_there_is_nothing(monkeypatch, seen):
    """And wakes for the next call; one that ends while it is looked at is left."""
    monkeypatch.setattr(watch, "LINGER", 0)
    the_watch = watch.watch()
    for number in range(3):
        with deferring(observers=[seen], slow_after=0.02):
            defer(until, lambda number=number: len(seen.slow_ones) > number)
        until(lambda: not the_watch._wanted.is_set())
    assert len(seen.slow_ones) == 3
    with deferring(observers=[seen]) as scope:
        gone = watch.Watched(defer(int), scope, 1)
    the_watch._report(scope.options.observers.overran, gone, 1)
    assert seen.over == []


def test_a_moment_past_its_limit(seen):
    """Where a call can be ended, that is just happening; then it runs on."""
    the_watch = watch.Watch()
    with deferring(observers=[seen]) as scope:
        watched = watch.Watched(defer(int), scope, 1)
        the_watch._calls[id(watched)] = watched
        watched.started_at -= 1 + watch.GRACE / 2
        the_watch._look(watched)
        assert seen.over == []
        watched.started_at -= watch.GRACE
        the_watch._look(watched)
    assert [label for label, _, _ in seen.over] == ["builtins.int"]


def test_no_watch_in_a_process_that_ends(monkeypatch, ran):
    """The call runs all the same."""

    class NoMore(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(watch, "watch", PerProcess(watch.Watch))
    monkeypatch.setattr(threading, "Thread", NoMore)
    with deferring(slow_after=5):
        defer(ran.append, 1)
    assert ran == [1]


def test_two_threads_are_the_first_to_be_watched(monkeypatch):
    """There is one watch for both, which tells of each call once."""
    the_watch, start, started = watch.Watch(), threading.Thread.start, []

    class Thread(threading.Thread):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            if not started:
                started.append(None)
                the_watch._start()  # the other one has come as far as this one

        def start(self):
            started.append(self)
            start(self)

    monkeypatch.setattr(threading, "Thread", Thread)
    the_watch._start()
    assert started == [None, the_watch._thread]


def test_the_stack_of_a_greenlet(monkeypatch):
    """Of one that waits, gevent knows it; the thread's stack is another one's."""

    class Greenlet:
        gr_frame = sys._getframe()  # of this class

    class Module:
        getcurrent = staticmethod(Greenlet)

    monkeypatch.setitem(sys.modules, "greenlet", Module)
    with deferring() as scope:
        watched = watch.Watched(defer(int), scope, None)
    assert "gr_frame = sys._getframe()" in watched.stack()
    Greenlet.gr_frame = None
    watched.thread = -1  # it has ended
    assert watched.stack() == ""


def test_the_stack_begins_with_the_function_of_the_app(monkeypatch, seen):
    """Under gunicorn's hooks, in a coroutine, in a chain, inside what is opened around
    calls: none of our own frames lead to it. Those that it has called stay."""

    class Gevent(host.Host):
        call_within = GeventHost.call_within

    clock = Clock(monkeypatch)
    slow = PATIENCE / 2

    def of_the_app(*_):
        named = len(seen.slow_ones)
        clock.skip(slow)  # not before it has come here, on a busy machine
        until(lambda: len(seen.slow_ones) > named)

    async def coroutine():
        of_the_app()

    def outer_stacks():
        return [stack for _, _, stack in seen.slow_ones if "in waits_for" in stack]

    def another():
        clock.skip(slow)
        until(outer_stacks)

    def waits_for_another():
        defer(another).named("another").result()

    gevent = SimpleNamespace(Timeout=lambda seconds, up: nullcontext())
    monkeypatch.setitem(sys.modules, "gevent", gevent)
    monkeypatch.setattr(host, "current", Gevent())
    with deferring(
        observers=[seen], slow_after=slow, time_limit=PATIENCE, around=nullcontext
    ):
        defer(of_the_app)
        defer(coroutine)
        defer(of_the_app).then(of_the_app)
        defer(waits_for_another)
    first = [
        re.match(r'  File "(.+)", line \d+, in (\w+)\n', stack).groups()
        for label, _, stack in seen.slow_ones
        if label != "another"
    ]
    assert first == [
        (__file__, name)
        for name in ("of_the_app", "coroutine", "of_the_app", "of_the_app",
                     "waits_for_another")
    ]  # fmt: skip
    assert "in result" in outer_stacks()[0]


def test_end_without_a_watch(monkeypatch):
    """A call that forks: its child has begun nothing."""
    monkeypatch.setattr(watch, "watch", PerProcess(watch.Watch))
    with deferring() as scope:
        watch.stop_watching(watch.Watched(defer(int), scope, None))


def test_the_watch_looks_for_what_came_just_before(monkeypatch, seen):
    """A call that begins as the watch is about to wait is seen all the same."""
    monkeypatch.setattr(watch, "LINGER", 0)
    monkeypatch.setattr(watch, "watch", PerProcess(watch.Watch))

    class Wanted(threading.Event):
        def clear(self):
            super().clear()
            if not cleared.is_set():
                cleared.set()
                the_watch._calls[1] = late

        def wait(self, timeout=None):
            waited.append(1)
            return super().wait(timeout)

    cleared, waited = threading.Event(), []
    the_watch = watch.watch()
    the_watch._wanted = Wanted()
    with deferring(observers=[seen], slow_after=0.001) as scope:
        late = watch.Watched(defer(int), scope, None)
        the_watch.add(late)
        the_watch.remove(late)
        assert cleared.wait(10)
        assert not waited
        the_watch.remove(late)
        the_watch._calls.clear()


def test_without_anybody_to_ask():
    """When nobody knows whether a client waits, the calls run where they are."""
    ran = []
    app = DeferMiddleware(
        text_app(lambda: defer(lambda: ran.append(threading.current_thread()))),
        when_busy="thread",
        inline=True,
    )
    get(app)
    assert ran == [threading.main_thread()]
