"""What needs the real clock: limits that are reached, and how long something takes."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
import weakref
from functools import partial

import pytest

from wsgi_defer import (
    DeferMiddleware,
    PoolTimeoutError,
    TimeLimitError,
    defer,
    deferring,
    gather,
    pool,
)
from wsgi_defer._calls import watch
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.pools import ThreadPool
from wsgi_defer.pools._task import Task

from ..helpers.client import get, text_app
from ..helpers.limits import sleep_on
from ..helpers.pools import LONG, impatient, same
from ..helpers.waiting import PATIENCE, at_best, until

pytestmark = pytest.mark.usefixtures("the_alarm_is_as_it_was")


@pytest.fixture
def their_alarm():
    """An app that has a handler of its own."""
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *args: rang.append(1))
    yield rang
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_the_limit_of_the_call_comes_before_that_of_the_middleware(seen, ran):
    """Each alone is enough."""

    def view():
        defer(time.sleep, 0.12).time_limit(10)
        defer(sleep_on)
        defer(ran.append, 1).time_limit(10)

    get(DeferMiddleware(text_app(view), time_limit=0.1, observers=[seen]))
    assert [error.call for error in seen.errors] == ["tests.helpers.limits.sleep_on"]
    assert ran == [1]


def test_an_app_that_uses_the_alarm_is_left_alone(seen, their_alarm, monkeypatch):
    """Its handler is called, and ours only says that the call runs on."""
    monkeypatch.setattr(watch, "GRACE", 0.0)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with deferring(observers=[seen]):
        defer(sleep_on, enough=lambda: their_alarm and seen.over).time_limit(0.05)
    assert their_alarm == [1]
    assert seen.errors == []
    assert [label for label, _, _ in seen.over] == ["tests.helpers.limits.sleep_on"]


def test_a_coroutine_is_ended_at_its_limit(seen, ran, clock):
    """Its finally clauses run."""

    async def wait():
        try:
            clock.skip(60)
            await asyncio.sleep(20)
        finally:
            ran.append("cleaned up")

    with deferring(observers=[seen], time_limit=50):
        defer(wait)
    assert isinstance(seen.errors[0], TimeLimitError)
    assert ran == ["cleaned up"]


def test_a_coroutine_that_blocks_its_loop(seen, ran, clock):
    """The call is given up after its grace, and the next one has another loop."""
    go, blocked = threading.Event(), []

    async def block():
        blocked.append(asyncio.get_running_loop())
        clock.skip(60)
        go.wait(PATIENCE)

    async def work():
        ran.append(asyncio.get_running_loop())

    with deferring(observers=[seen], time_limit=50, time_limit_grace=1):
        defer(block)
        defer(work)
    go.set()
    assert isinstance(seen.errors[0], TimeLimitError)
    assert ran
    assert ran != blocked


def test_a_call_that_sets_an_alarm_of_its_own(seen, ran, clock):
    """With a handler, it has it; and ours is not put over it at the end."""

    def ring(*args):
        ran.append("rang")

    def theirs():
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # in place of ours
        until(lambda: ran)
        clock.skip(60)

    with deferring(observers=[seen]):
        defer(theirs).time_limit(50)
    assert signal.signal(signal.SIGALRM, signal.SIG_DFL) is ring
    assert ran == ["rang"]
    assert seen.errors == []


def test_the_arguments_are_let_go(seen, monkeypatch):
    """A call that was ended is in no cycle, once its error is gone."""

    class Thing:
        def wait(self):
            sleep_on()

    monkeypatch.setattr(
        logging.getLogger("wsgi_defer"), "disabled", True
    )  # it keeps it
    gc.disable()
    try:
        thing = Thing()
        alive = weakref.ref(thing)
        with deferring(observers=[seen]):
            defer(thing.wait).time_limit(0.05)
        del thing
        seen.errors.clear()
        until(lambda: alive() is None)  # the watch may just look at the call
    finally:
        gc.enable()


def test_the_stack_of_a_call_around_another(seen, clock):
    """Each is shown from its own begin on."""

    def inner():
        clock.skip(60)
        until(lambda: seen.slow_ones)

    def outer():
        with deferring():
            defer(inner)

    with deferring(observers=[seen], slow_after=50):
        defer(outer)
    ((_, _, stack),) = seen.slow_ones
    assert stack.index("in outer") < stack.index("in inner")
    assert stack.count("in outer") == 1


def test_the_slow_log(seen, caplog, clock):
    """The stack of a call that takes long, once, and not of one that does not."""

    def wait():
        clock.skip(60)
        until(lambda: seen.slow_ones)

    def slow():
        wait()

    with deferring(observers=[seen], slow_after=50):
        defer(int)
        defer(slow)
    ((label, seconds, stack),) = seen.slow_ones
    assert label.endswith("slow")
    assert 60 <= seconds < 60 + PATIENCE
    assert stack.index("in slow") < stack.index("in wait")
    assert f"is slow, it has run for {seconds:.1f} s" in caplog.text


def test_a_limit_around_an_early_chain(seen, clock):
    """That of a handler is not that of what it handles."""

    def slow():
        clock.skip(60)
        time.sleep(0.02)  # an alarm that is set would ring

    with deferring(observers=[seen]):
        handler = defer(slow).then(str).time_limit(50)
        assert handler.result() == "None"
    assert seen.errors == []


def test_a_watch_that_could_not_start_is_tried_again(monkeypatch, seen):
    """As when there were too many threads for a moment."""
    monkeypatch.setattr(watch, "watch", PerProcess(watch.Watch))
    start = threading.Thread.start

    def fail(self):
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", fail)
    for slow in (partial(time.sleep, 0.1), partial(until, lambda: seen.slow_ones)):
        with deferring(slow_after=0.05, observers=[seen]):
            defer(slow)
    assert len(seen.slow_ones) == 1


@pytest.mark.promise("P10")
def test_p10_max_wait_counts_from_submit(released):
    """P10: waiting for a thread and running together, for each of them."""

    def wait_for_both():
        with deferring(pools={"small": ThreadPool(1, max_wait=0.1)}):
            began = time.monotonic()
            running = pool("small").submit(released.wait, LONG)
            waiting = pool("small").submit(released.wait, LONG)
            for future in (running, waiting):
                with pytest.raises(PoolTimeoutError, match=r"pool 'small' .* 0\.1 s"):
                    future.result(PATIENCE)
                assert future.done()
            return time.monotonic() - began

    assert at_best(wait_for_both, 5) > 0.09


@pytest.mark.promise("P4")
def test_p4_a_late_result_disturbs_nobody(released, caplog):
    """P4: the thread of a task that was too late is another one's at once."""
    kind = ThreadPool(1, max_wait=PATIENCE)
    with deferring(pools={"late": kind}):
        pool("late").submit(int).result()
        with impatient(kind, Task.running):
            late = pool("late").submit(lambda: (released.wait(LONG), 1 / 0))
            assert isinstance(late.exception(PATIENCE), PoolTimeoutError)
        assert pool("late").submit(same, 1).result() == 1
        released.set()
        assert pool("late").submit(same, 2).result() == 2
        assert isinstance(late.exception(), PoolTimeoutError)
    assert "late" not in caplog.text  # other tests may still be heard


@pytest.mark.promise("P11")
def test_p11_at_the_same_time(scope):
    """P11: two sleeps of 250 ms end well under 0.5 s."""

    def measure():
        began = time.monotonic()
        gather([lambda: time.sleep(0.25)] * 2)
        return time.monotonic() - began

    at_best(measure, 0.45)


def test_a_job_that_waits_for_its_own_pool():
    """No deadlock for ever: max_wait ends it, and says what may be the reason."""
    kind = ThreadPool(1, max_wait=PATIENCE)
    with deferring(pools={"small": kind}):

        def outer():
            return pool("small").submit(same, 1).result()

        pool("small").submit(int).result()
        with impatient(kind), pytest.raises(PoolTimeoutError, match="own pool"):
            pool("small").submit(outer).result(PATIENCE)
        assert pool("small").submit(same, 1).result() == 1


def test_gather_of_all_outcomes_in_time(scope):
    """What is late is an outcome, too."""
    done, waiting = pool().submit(int), pool("coroutines").submit(asyncio.sleep, LONG)
    done.result()
    first, second = gather([done, waiting], timeout=0.1, return_exceptions=True)
    assert first == 0
    assert isinstance(second, PoolTimeoutError)
    assert waiting.cancelled()
