"""How pools end, and their tasks with them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import CancelledError

import pytest

from wsgi_defer import (
    PoolClosedError,
    PoolTimeoutError,
    Scope,
    ScopeClosedError,
    background,
    deferring,
    pool,
    pools,
)
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.pools import AsyncPool, ThreadPool, _coroutines, _opened, _threads
from wsgi_defer.pools._threads import Threads

from ...helpers.pools import running_of
from ...helpers.waiting import PATIENCE, until

LONG = 30


KINDS = pytest.mark.parametrize(
    ("kind", "work"),
    [(ThreadPool(1), time.sleep), (AsyncPool(1), asyncio.sleep)],
    ids=["threads", "io"],
)


@KINDS
def test_close_ends_the_tasks(kind, work, released):
    """Those that run or wait end at once, and nothing more is taken."""
    # None ends by itself before that, however slow the machine is.
    endless = released.wait if work is time.sleep else work
    with deferring(pools={"one": kind}) as scope:
        tasks = [pool("one").submit(endless, LONG) for _ in range(3)]
        until(tasks[0].running)
        running_of(kind).close()
        for task in tasks:
            with pytest.raises(CancelledError):
                task.result(0.2)
        with pytest.raises(PoolClosedError, match="'one'"):
            pool("one").submit(work, 0)
        assert not running_of(kind).tasks
        assert scope.guests == {}


def test_what_runs_at_exit(monkeypatch):
    """Each pool that there is gets closed, here by hand."""
    kind = ThreadPool(1)
    monkeypatch.setattr(_opened, "running", {})
    # Not that of all tests, which would take nothing more.
    monkeypatch.setattr(background, "_background", PerProcess(background._Background))
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
        _opened._close_all()
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

    monkeypatch.setattr(_threads, "Threads", Made)
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert pool("one").submit(int).result() == 0
    assert running_of(kind) is made[1]
    assert [each.closed for each in made] == [True, False]


# At the end of the request


@KINDS
def test_a_request_that_ends_while_a_task_is_submitted(work, kind):
    """No pool keeps a task that nobody will end."""

    class Ending(Scope):
        def add_guest(self, guest, function):
            super().add_guest(guest, function)
            self.closed = True
            self.abandon_guests()

    kind = type(kind)(1)
    token = enter(scope := Ending())
    try:
        task = pools.Pool("one", kind, scope).submit(work, 0)
    finally:
        leave(token)
    assert task.cancelled()
    assert not running_of(kind).tasks
    with pytest.raises(ScopeClosedError):
        pools.Pool("one", kind, scope).submit(work, 0)
    assert not running_of(kind).tasks


def test_a_task_that_is_late_before_it_has_begun():
    """It is submitted all the same, and has failed."""

    class Tasks(OrderedDict):
        def __setitem__(self, task, value):
            super().__setitem__(task, value)
            task.expire()
            task.expire()  # once more is of no effect

    kind = ThreadPool(1, max_wait=LONG)
    with deferring(pools={"one": kind}) as scope:
        pool("one").submit(int).result()
        running_of(kind).tasks = Tasks()
        task = pool("one").submit(int)
        assert isinstance(task.exception(0), PoolTimeoutError)
        assert not running_of(kind).tasks
        assert scope.guests == {}
    until(lambda: not running_of(kind)._load)


def test_guests_that_leave_by_themselves():
    """One has left at that moment, and one is of a parent process."""

    class Guests(dict):
        def popitem(self):
            if len(self) == 1:
                self.clear()
            return super().popitem()

    class Guest:
        def abandon(self, why):
            ended.append(why)

    ended, scope = [], Scope()
    scope.guests = Guests()
    scope.add_guest(Guest(), "submit")
    scope.add_guest(Guest(), "submit")
    scope.add_guest(Guest(), "submit")
    scope.guests[guest := Guest()] = os.getppid()
    scope.abandon_guests()
    assert guest not in scope.guests
    assert ended == ["the request has ended"] * 2


def test_many_tasks_that_wait_for_their_turn(monkeypatch):
    """To cancel one does not take a look at each of the others."""
    from wsgi_defer.pools._task import Task

    looked = []
    with deferring(pools={"io": AsyncPool(1)}):
        tasks = [pool("io").submit(asyncio.sleep, LONG) for _ in range(500)]
        until(tasks[0].running)

        def compare(task, other):
            looked.append(1)
            return task is other

        monkeypatch.setattr(Task, "__eq__", compare)
        for task in reversed(tasks):
            task.cancel()
        waiting = running_of(pool("io")._kind)._waiting
        until(lambda: not waiting)
        monkeypatch.undo()
    assert len(looked) < 500


# In a child process


def test_a_child_forgets_the_pools(monkeypatch):
    """What it does then, here."""
    kind = ThreadPool(1)
    monkeypatch.setattr(_opened, "running", {})
    with deferring(pools={"one": kind}):
        _opened._start_anew()  # nothing was made, as after a fork in the midst of it
        assert pool("one").submit(int).result() == 0
        first = running_of(kind)
        _opened._start_anew()
        assert running_of(kind) is None
        assert pool("one").submit(int).result() == 0
        assert running_of(kind) is not first
        first.close()


def test_a_pool_is_known_as_soon_as_it_is_there(monkeypatch, ran):
    """So that a fork at any line finds all that it has to forget."""
    kind = ThreadPool(1)

    class Made(Threads):
        def forget(self):
            ran.append(self)

    class Running(dict):
        def setdefault(self, key, made):
            _opened._start_anew()  # a fork just before
            first = super().setdefault(key, made)
            assert ran == []
            _opened._start_anew()  # and just after
            assert ran == [first]
            return first

    monkeypatch.setattr(_threads, "Threads", Made)
    monkeypatch.setattr(_opened, "running", Running())
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
    assert running_of(kind) is None
    ran[0].close()


def test_a_pool_goes_with_the_object_that_configures_it(monkeypatch):
    """Nothing of it is left, and its threads end."""
    monkeypatch.setattr(_opened, "running", {})
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
    runner = running_of(kind)
    assert list(_opened.running.values()) == [runner]
    del kind
    gc.collect()
    assert _opened.running == {}
    assert runner.closed


@pytest.mark.parametrize("short", [True, False])
def test_coroutines_that_are_cancelled_at_the_end(short, ran, monkeypatch):
    """close() lets them end, if that is short."""
    monkeypatch.setattr(_coroutines, "END_WAIT", LONG if short else 0.02)

    async def task():
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0.02)
            while not (short or closed.is_set()):
                await asyncio.sleep(0.005)
            ran.append("ended")

    kind, closed = AsyncPool(1), threading.Event()
    with deferring(pools={"io": kind}):
        pool("io").submit(task)
        until(lambda: running_of(kind)._coroutines)
        began = time.monotonic()
        running_of(kind).close()
        assert ran == ["ended"] * short
        assert time.monotonic() - began < PATIENCE
        closed.set()
    until(lambda: ran)


def test_a_pool_of_coroutines_that_is_closed_on_its_own_thread(ran, monkeypatch):
    """Nothing is waited for there."""
    monkeypatch.setattr(_coroutines, "END_WAIT", LONG)

    async def task():
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
        pool("io").submit(task)
        until(lambda: running_of(kind)._coroutines)
        assert pool("other").submit(close, running_of(kind)).result() < PATIENCE
        until(lambda: ran)
