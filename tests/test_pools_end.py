"""How pools end, and their jobs with them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import CancelledError
from weakref import WeakSet

import pytest

from wsgi_defer import (
    PoolClosedError,
    PoolTimeoutError,
    Scope,
    ScopeClosedError,
    _async_pool,
    _thread_pool,
    background,
    deferring,
    pool,
    pools,
)
from wsgi_defer._per_process import PerProcess
from wsgi_defer._scope import enter, leave
from wsgi_defer._thread_pool import Threads
from wsgi_defer.pools import AsyncPool, ThreadPool

from .waiting import PATIENCE, until

LONG = 30


KINDS = pytest.mark.parametrize(
    ("kind", "work"),
    [(ThreadPool(1), time.sleep), (AsyncPool(1), asyncio.sleep)],
    ids=["threads", "io"],
)


@KINDS
def test_close_ends_the_jobs(kind, work, released):
    """Those that run or wait end at once, and nothing more is taken."""
    # None ends by itself before that, however slow the machine is.
    endless = released.wait if work is time.sleep else work
    with deferring(pools={"one": kind}) as scope:
        jobs = [pool("one").submit(endless, LONG) for _ in range(3)]
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
    # Not that of all tests, which would take nothing more.
    monkeypatch.setattr(background, "_background", PerProcess(background._Background))
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
            await asyncio.sleep(0.02)
            while not (short or closed.is_set()):
                await asyncio.sleep(0.005)
            ran.append("ended")

    kind, closed = AsyncPool(1), threading.Event()
    with deferring(pools={"io": kind}):
        pool("io").submit(job)
        until(lambda: kind._running._tasks)
        began = time.monotonic()
        kind._running.close()
        assert ran == ["ended"] * short
        assert time.monotonic() - began < PATIENCE
        closed.set()
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
