"""How pools end: with the process, in a child process, and with nobody left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from weakref import WeakSet

import pytest

from wsgi_defer import (
    PoolClosedError,
    PoolTimeoutError,
    Scope,
    ScopeClosedError,
    _async_pool,
    _thread_pool,
    defer,
    deferring,
    pool,
    pools,
)
from wsgi_defer._scope import enter, leave
from wsgi_defer._thread_pool import Threads
from wsgi_defer.pools import AsyncPool, ThreadPool

from .waiting import PATIENCE, until

LONG = 30


def run(code):
    """Run a program of its own; return what it printed."""
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert time.monotonic() - began < 15  # EXIT_WAIT is 20
    return result


# At exit


@pytest.mark.parametrize("first", ["pools", "background"])
def test_deferred_calls_may_use_pools_at_exit(first):
    """The background thread finishes what it has, and then the pools close."""
    result = run(f"""
        import asyncio, threading, time
        from wsgi_defer import Outcome, background, defer, deferring, gather, pool
        from wsgi_defer.pools import AsyncPool, ThreadPool
        from tests.test_background import enter, leave, ready, Scope
        from wsgi_defer._scope import Options

        def call():
            time.sleep(.3)
            print(pool().submit(int, 7).result(),
                  pool("io").submit(asyncio.sleep, 0, 8).result(), flush=True)

        def use():
            pool().submit(int).result()  # a thread; at exit, 3.12+ starts none
            pool("io").submit(asyncio.sleep, 0).result()

        options = Options(pools={{"default": ThreadPool(1), "io": AsyncPool(1)}})
        scope = Scope(options.checked())
        token = enter(scope)
        if {first == "pools"}:
            use()
        background.submit(Scope(), Outcome(200), ready)
        background.join()
        if {first == "background"}:
            use()
        defer(call)
        leave(token)
        background.submit(scope, Outcome(200), ready)
        """)
    assert result.stdout == "7 8\n"
    assert result.stderr == ""


def test_a_closed_pool_says_so_at_once():
    """Who comes after that is told, and does not wait."""
    result = run("""
        import atexit
        from wsgi_defer import PoolClosedError, deferring, pool
        def late():
            with deferring():
                try:
                    pool().submit(int)
                except PoolClosedError as error:
                    print(error)
        atexit.register(late)
        with deferring():
            pool().submit(int).result()
        """)
    assert result.stdout.startswith("the pool 'default' takes no more jobs")


def test_a_background_that_gave_up_is_waited_for_once():
    """Two hooks at exit do not take twice as long."""
    result = run("""
        import time
        from tests.test_background import *
        from wsgi_defer import deferring, pool
        background.EXIT_WAIT = 1.5
        with deferring():
            pool().submit(int).result()
        background.submit(scope_with((time.sleep, 60)), Outcome(200), ready)
        began = time.monotonic()
        with deferring():
            pool().submit(int).result()
        import atexit
        atexit._run_exitfuncs()
        assert 1.4 < time.monotonic() - began < 2.4
        """)
    assert "time.sleep lost" in result.stderr


KINDS = pytest.mark.parametrize(
    ("kind", "work"),
    [(ThreadPool(1), time.sleep), (AsyncPool(1), asyncio.sleep)],
    ids=["threads", "io"],
)


@KINDS
def test_close_ends_the_jobs(kind, work):
    """Those that run or wait end at once, and nothing more is taken."""
    with deferring(pools={"one": kind}) as scope:
        jobs = [pool("one").submit(work, 0.5) for _ in range(3)]
        until(jobs[0].running)
        kind._running.close()
        for job in jobs:
            with pytest.raises(CancelledError):
                job.result(0.2)
        with pytest.raises(PoolClosedError, match="'one'"):
            pool("one").submit(work, 0)
        assert not kind._running.jobs
        assert scope._guests == {}


def test_what_runs_at_exit(monkeypatch):
    """Each pool that there is gets closed, here by hand."""
    kind, unused = ThreadPool(1), ThreadPool(1)
    monkeypatch.setattr(pools, "_opened", WeakSet([kind, unused]))
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
        pools._close_all()
        with pytest.raises(PoolClosedError):
            pool("one").submit(int)


def test_two_threads_are_the_first(monkeypatch):
    """They get the same pool, and the other one is closed."""
    made = []

    class Made(Threads):
        def __init__(self, *args):
            made.append(self)
            if len(made) == 1:
                pool("one").submit(int).result()  # of the other thread
            super().__init__(*args)

    monkeypatch.setattr(_thread_pool, "Threads", Made)
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert pool("one").submit(int).result() == 0
    assert kind._running is made[1]
    assert [each._closed for each in made] == [True, False]


# At the end of the request


@KINDS
def test_a_request_that_ends_while_a_job_is_submitted(work, kind):
    """No pool keeps a job that nobody will end."""

    class Ending(Scope):
        def add_guest(self, guest, function):
            super().add_guest(guest, function)
            self.closed = True
            self.end_guests()

    kind = type(kind)(1)
    token = enter(scope := Ending())
    try:
        job = pools.Pool("one", kind, scope).submit(work, 0)
    finally:
        leave(token)
    assert job.cancelled()
    assert not kind._running.jobs
    with pytest.raises(ScopeClosedError):
        pools.Pool("one", kind, scope).submit(work, 0)
    assert not kind._running.jobs


def test_a_job_that_is_late_before_it_has_begun():
    """It is submitted all the same, and has failed."""

    class Jobs(OrderedDict):
        def __setitem__(self, job, value):
            super().__setitem__(job, value)
            job.expire()
            job.expire()  # once more is of no effect

    kind = ThreadPool(1, max_wait=LONG)
    with deferring(pools={"one": kind}) as scope:
        pool("one").submit(int).result()
        kind._running.jobs = Jobs()
        job = pool("one").submit(int)
        assert isinstance(job.exception(0), PoolTimeoutError)
        assert not kind._running.jobs
        assert scope._guests == {}
    until(lambda: not kind._running._load)


def test_guests_that_leave_by_themselves():
    """One has left at that moment, and one is of a parent process."""

    class Guests(dict):
        def popitem(self):
            if len(self) == 1:
                self.clear()
            return super().popitem()

    class Guest:
        def end(self, why):
            ended.append(why)

    ended, scope = [], Scope()
    scope._guests = Guests()
    scope.add_guest(Guest(), "submit")
    scope.add_guest(Guest(), "submit")
    scope.add_guest(Guest(), "submit")
    scope._guests[guest := Guest()] = os.getppid()
    scope.end_guests()
    assert guest not in scope._guests
    assert ended == ["the request has ended"] * 2


def test_many_jobs_that_wait_for_their_turn(monkeypatch):
    """To cancel one does not take a look at each of the others."""
    from wsgi_defer._job import Job

    looked = []
    with deferring(pools={"io": AsyncPool(1)}):
        jobs = [pool("io").submit(asyncio.sleep, LONG) for _ in range(500)]
        until(jobs[0].running)

        def compare(job, other):
            looked.append(1)
            return job is other

        monkeypatch.setattr(Job, "__eq__", compare)
        for job in reversed(jobs):
            job.cancel()
        waiting = pool("io")._kind._running._waiting
        until(lambda: not waiting)
        monkeypatch.undo()
    assert len(looked) < 500


# In a child process


def in_child(function):
    """What it returns there, which is a small number."""
    pid = os.fork()
    if not pid:
        status = 99
        with contextlib.suppress(BaseException):
            status = function()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_job_in_a_child_makes_no_call_its_own(ran):
    """The calls of the parent are still the parent's to run."""
    with deferring(pools={"one": ThreadPool(1)}):
        call = defer(ran.append, 1)

        def child():
            pool("one").submit(int).result(PATIENCE)
            with contextlib.suppress(FutureTimeout):
                call.result(0.01)
            return len(ran)

        assert in_child(child) == 0
    assert ran == [1]


def test_a_call_in_a_child_ends_no_job_of_the_parent(released):
    """Its own jobs end there, and those of the parent are left alone."""
    with deferring(pools={"one": ThreadPool(2)}) as scope:
        job = pool("one").submit(released.wait, LONG)
        until(job.running)

        def child():
            defer(int)
            own = pool("one").submit(time.sleep, LONG)
            scope.closed = True
            scope.end_guests()
            return 10 * own.done() + job.done()

        assert in_child(child) == 10
        assert not job.done()


def test_a_child_forgets_the_pools(monkeypatch):
    """What it does then, here."""
    kind = ThreadPool(1)
    monkeypatch.setattr(pools, "_opened", WeakSet([kind]))
    with deferring(pools={"one": kind}):
        pools._start_anew()  # nothing was made, as after a fork in the midst of it
        assert pool("one").submit(int).result() == 0
        first = kind._running
        pools._start_anew()
        assert kind._running is None
        assert pool("one").submit(int).result() == 0
        assert kind._running is not first
        first.close()


def test_a_pool_that_is_forgotten_in_a_child(released):
    """It is closed in the process that made it, and nowhere else."""
    with deferring(pools={"one": ThreadPool(1)}):
        job = pool("one").submit(released.wait, LONG)
        runner = pool("one")._kind._running
        until(job.running)
        pools._close(runner, os.getppid())  # of another process
        assert not runner._closed

        def child():
            pools._close(runner, os.getppid())
            return 10 * runner._closed + job.done()

        assert in_child(child) == 0


def test_a_pool_is_known_before_it_is_there(monkeypatch):
    """So that a fork at any line finds all that it has to forget."""
    kind, seen = ThreadPool(1), []

    class Opened(WeakSet):
        def add(self, item):
            seen.append(item._running)
            super().add(item)

    monkeypatch.setattr(pools, "_opened", Opened())
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
    assert seen == [None]


@pytest.mark.parametrize("short", [True, False])
def test_coroutines_that_are_cancelled_at_the_end(short, ran, monkeypatch):
    """close() lets them end, if that is short."""
    monkeypatch.setattr(_async_pool, "END_WAIT", LONG if short else 0.02)

    async def job():
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0.02 if short else 0.5)
            ran.append("ended")

    kind = AsyncPool(1)
    with deferring(pools={"io": kind}):
        pool("io").submit(job)
        until(lambda: kind._running._tasks)
        began = time.monotonic()
        kind._running.close()
        assert ran == ["ended"] * short
        assert time.monotonic() - began < PATIENCE
    until(lambda: ran)


def test_a_pool_of_coroutines_that_is_closed_on_its_own_thread(ran, monkeypatch):
    """Nothing is waited for there."""
    monkeypatch.setattr(_async_pool, "END_WAIT", LONG)

    async def job():
        try:
            await asyncio.sleep(LONG)
        finally:
            ran.append("ended")

    async def close(running):
        began = time.monotonic()
        running.close()
        return time.monotonic() - began

    kind = AsyncPool(1)
    with deferring(pools={"io": kind, "other": AsyncPool(1)}):
        pool("io").submit(job)
        until(lambda: kind._running._tasks)
        assert pool("other").submit(close, kind._running).result() < PATIENCE
        until(lambda: ran)
