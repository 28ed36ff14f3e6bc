"""gather() and map(): waiting for several things at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future

import pytest

from wsgi_defer import (
    PoolTimeoutError,
    WaitsForItselfError,
    defer,
    deferring,
    gather,
    pool,
)
from wsgi_defer._runtime import host
from wsgi_defer.pools import AsyncPool, ThreadPool

from ...helpers.orders import handle_abort
from ...helpers.pools import fail, same
from ...helpers.waiting import until

SOON = 9  # seconds; without what is tested here it would be LONG
LONG = 30
POOLS = {
    "default": ThreadPool(4, max_wait=LONG),
    "threads": ThreadPool(4, max_wait=LONG),
    "io": AsyncPool(9, max_wait=LONG),
}


def test_the_queue_that_is_there_when_it_is_called(monkeypatch, scope):
    """gevent puts its own in the module, maybe after the import of this package."""
    made = []

    class Queue(queue._PySimpleQueue):
        def __init__(self):
            super().__init__()
            made.append(self)

    gather([int])  # the import, and the pool's own queue
    monkeypatch.setattr(queue, "SimpleQueue", Queue)
    assert gather([int, str]) == [0, ""]
    assert len(made) == 1


@pytest.fixture(autouse=True)
def quickly():
    """No test waits for what takes long."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON


def long_task():
    """It waits until it is cancelled."""
    return pool("io").submit(asyncio.sleep, LONG)


# Results


@pytest.mark.promise("L29")
def test_l29_gather_keeps_the_keys(scope):
    """L29: of a dict; and it takes functions and futures."""
    assert gather({"b": lambda: 1, 3: pool("threads").submit(same, 2)}) == {
        "b": 1,
        3: 2,
    }
    assert list(gather({"z": int, "a": int})) == ["z", "a"]
    assert (gather([]), gather({})) == ([], {})


@pytest.mark.promise("L30")
def test_l30_gather_keeps_the_order(scope):
    """L30: whatever finishes first."""
    third = threading.Event()

    def first():
        assert third.wait(SOON)
        return 1

    def last():
        third.set()
        return 3

    assert gather([first, lambda: 2, last]) == [1, 2, 3]
    assert gather(iter([int, str])) == [0, ""]


def test_gather_of_one_that_fails(scope, released):
    """It is raised at once, and the rest is cancelled."""
    waiting = pool("io").submit(asyncio.sleep, LONG)
    with pytest.raises(ValueError, match="boom"):
        gather([waiting, lambda: fail(ValueError("boom"))])
    assert waiting.cancelled()


def test_gather_of_all_outcomes(scope):
    """Results and exceptions, in their places."""
    cancelled = pool("io").submit(asyncio.sleep, LONG)
    cancelled.cancel()
    calls = {"good": int, "bad": lambda: fail(LookupError(0)), "gone": cancelled}
    outcomes = gather(calls, return_exceptions=True)
    assert outcomes["good"] == 0
    assert (type(outcomes["bad"]), outcomes["bad"].args) == (LookupError, (0,))
    assert isinstance(outcomes["gone"], CancelledError)


def test_gather_with_a_timeout(scope):
    """The rest is cancelled, and the error names one of them."""
    done, waiting = pool().submit(int), pool("io").submit(asyncio.sleep, LONG)
    done.result()
    with pytest.raises(PoolTimeoutError, match=r"sleep on .*'io' .* 0\.01 s"):
        gather([done, waiting], timeout=0.01)
    assert waiting.cancelled()


def test_gather_has_the_time_of_the_default_pool(released):
    """If none is given."""
    with deferring(pools={**POOLS, "default": ThreadPool(2, max_wait=0.02)}):
        with pytest.raises(PoolTimeoutError):
            gather([pool("threads").submit(released.wait, LONG)])
        with pytest.raises(PoolTimeoutError):
            gather([lambda: released.wait(LONG)])


def test_gather_of_something_else(scope, ran):
    """Nothing has run then."""
    with pytest.raises(TypeError, match="futures, not int"):
        gather([lambda: ran.append(1), 3])
    assert ran == []


def test_gather_of_futures_of_others(scope):
    """Any that concurrent.futures can wait for; one that is late has no name."""
    future = Future()
    with pytest.raises(PoolTimeoutError, match="a future on"):
        gather([future], timeout=0)
    done = Future()
    done.set_result(3)
    assert gather([done, done]) == [3, 3]


# Deferred calls


def test_deferred_calls_run_early(ran):
    """As result() runs them: once, here, with those that they follow."""
    with deferring() as scope:
        first = defer(lambda: ran.append("first") or 1)
        second = first.then(lambda n: n + 1)
        rest = defer(ran.append, "rest")
        gathered = gather({"call": second, "task": lambda: 3})
        assert gathered == {"call": 2, "task": 3}
        assert ran == ["first"]
        assert gather([first, second]) == [1, 2]
        assert scope.pending == (rest,)
    assert ran == ["first", "rest"]


def test_tasks_run_beside_deferred_calls(scope):
    """The call of the list that needs this thread is the last one to begin."""
    begun = threading.Event()
    call = defer(begun.wait, SOON)
    assert gather([call, begun.set]) == [True, None]


def test_a_deferred_call_that_fails(scope, ran, caplog):
    """Those after it are cancelled, and so are the tasks; its error is raised."""
    failing, other, task = (
        defer(fail, ValueError("boom")),
        defer(ran.append, 1),
        long_task(),
    )
    with pytest.raises(ValueError, match="boom"):
        gather([task, failing, other])
    assert task.cancelled()
    assert other.cancelled()
    assert ran == []
    assert "boom" not in caplog.text


def test_outcomes_of_deferred_calls(scope):
    """Each in its place."""
    gone = defer(int)
    gone.cancel()
    outcomes = gather(
        [defer(fail, KeyError(0)), gone, defer(int)], return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [KeyError, CancelledError, int]


def test_a_deferred_call_that_another_thread_runs(scope, released):
    """It is waited for, and is late as any other."""
    begun = threading.Event()
    call = defer(lambda: (begun.set(), released.wait(LONG)))
    runs = pool().submit(call.result)
    assert begun.wait(SOON)
    (outcome,) = gather([call], timeout=0.01, return_exceptions=True)
    assert isinstance(outcome, PoolTimeoutError)
    released.set()
    assert gather([call, runs]) == [(None, True)] * 2


def test_a_deferred_call_that_gathers_itself():
    """It would wait for ever."""
    with deferring():
        calls = []
        call = defer(lambda: gather(calls))
        calls.append(call)
    assert isinstance(call.exception(), WaitsForItselfError)


# Cancelled futures, and orders to stop


def test_a_future_that_was_cancelled(scope):
    """Also one that its executor has not come upon yet."""
    cancelled = Future()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        gather([long_task(), cancelled])
    (outcome,) = gather([cancelled], return_exceptions=True)
    assert isinstance(outcome, CancelledError)


def test_a_future_that_is_cancelled_meanwhile(scope):
    """The others are cancelled at once, as after any failure."""
    cancelled, task = Future(), long_task()
    timer = threading.Timer(0.05, cancelled.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        gather([task, cancelled])
    timer.join()
    assert task.cancelled()


def test_what_is_no_future_of_threads(scope):
    """Those of asyncio cannot be waited for here."""
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="functions without arguments, and futures"):
        gather([loop.create_future()])
    loop.close()


def test_an_order_to_stop_while_it_waits(scope, monkeypatch):
    """It goes up, and the tasks are cancelled; nothing takes it for an outcome."""

    class Alarm(host.Host):
        def patience(self):  # who is about to wait asks for it
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    task = long_task()
    monkeypatch.setattr(host, "current", Alarm())
    before = signal.signal(signal.SIGALRM, handle_abort)
    try:
        with pytest.raises(SystemExit):
            gather([task], return_exceptions=True)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert task.cancelled()


def test_an_order_to_stop_while_it_collects(scope):
    """It may come at any line."""

    class Stopped(Future):
        def result(self, timeout=None):
            handle_abort()

    future = Stopped()
    future.set_result(1)
    with pytest.raises(SystemExit):
        gather([future], return_exceptions=True)


def test_sys_exit_in_a_task(scope):
    """It is the task's own end, and so an outcome."""
    (outcome,) = gather([lambda: sys.exit(3)], return_exceptions=True)
    assert (type(outcome), outcome.code) == (SystemExit, 3)


class Impatient(host.Host):
    """A server that ends those who wait for longer than that."""

    def __init__(self, seconds):
        self.until = time.monotonic() + seconds

    def patience(self):
        return self.until - time.monotonic()


@pytest.mark.parametrize("calls", [1, 2])
def test_an_impatient_server(scope, monkeypatch, calls):
    """The view gets an error that says so, before the worker is ended."""
    tasks = [long_task() for _ in range(calls)]
    monkeypatch.setattr(host, "current", Impatient(1.07))
    with pytest.raises(
        PoolTimeoutError, match=r"after \d\.\d s.*longer timeout"
    ) as caught:
        gather(tasks)
    assert all(task.cancelled() for task in tasks)
    assert 0.1 <= caught.value.seconds < SOON
    assert f"after {caught.value.seconds} s" in str(caught.value)
    late = gather([long_task()], return_exceptions=True)
    assert "longer timeout" in str(late[0])


# What is left of it


class Thing:
    """What a request may hold."""


@pytest.mark.parametrize("options", [{}, {"return_exceptions": True}])
@pytest.mark.parametrize("how", ["function", "future", "call"])
def test_a_failing_gather_keeps_nothing(scope, options, how):
    """The collector of garbage is not needed to be rid of what its tasks knew."""

    def serve():
        thing = Thing()

        def task():
            raise ValueError(thing)  # in no local of its own

        with contextlib.suppress(ValueError):
            gather({"call": make[how](task), "other": int}, **options)
        return weakref.ref(thing)

    make = {"function": lambda task: task, "future": pool().submit, "call": defer}
    serve()  # the threads are there
    gc.disable()
    try:
        seen = serve()
        deadline = time.monotonic() + SOON / 2
        while seen() is not None:  # a thread lets go of its task a moment later
            assert time.monotonic() < deadline
            pool().submit(int).result()
    finally:
        gc.enable()


def test_map_raises_in_its_turn(scope):
    """And cancels what comes after it."""
    results = pool("threads").map(lambda n: 1 / n, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    futures = pool("io").map(asyncio.sleep, [0, LONG, LONG, LONG, LONG])
    next(futures)
    futures.close()
    assert not scope.guests
    with pytest.raises(TypeError, match="not a coroutine function"):
        pool("io").map(int, "1")
    with pytest.raises(ZeroDivisionError):  # of what it iterates over
        pool("io").map(asyncio.sleep, (1 / n + LONG for n in (1, 0)))
    assert not scope.guests


def test_map_that_is_closed_before_it_begins(scope):
    """Its tasks are cancelled, as those of one that has begun."""
    results = pool("io").map(asyncio.sleep, [LONG] * 3)
    results.close()
    assert not scope.guests
    assert next(results, "over") == "over"


def test_map_that_nobody_looks_at(scope, ran):
    """Its tasks run, as if by submit()."""
    pool().map(ran.append, range(3))
    until(lambda: sorted(ran) == [0, 1, 2])


def test_no_thread_for_each_task_that_was_too_late(monkeypatch):
    """gather() is told by the one thread that ends them."""
    threads = []
    start = threading.Thread.start

    def note(thread):
        threads.append(thread.name)
        start(thread)

    released = threading.Event()
    with deferring(pools={"short": ThreadPool(2, max_wait=0.01)}):
        monkeypatch.setattr(threading.Thread, "start", note)
        tasks = [pool("short").submit(released.wait, LONG) for _ in range(4)]
        outcomes = gather(tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PoolTimeoutError] * 4
        assert "wsgi_defer-callbacks" not in threads
    released.set()
