"""Pools that tests share, and tasks for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass

from wsgi_defer import deferring, pool
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool, _opened
from wsgi_defer.pools._task import Task

from .waiting import PATIENCE, until

LONG = 30  # seconds of a task that is not waited for
variable = ContextVar("variable", default=None)

THREADS = ThreadPool(4, max_wait=PATIENCE)
# One for all tests, because a process takes its time to start.
PROCESSES = ProcessPool(2, max_wait=PATIENCE)
COROUTINES = AsyncPool(3, max_wait=PATIENCE)
POOLS = {"threads": THREADS, "processes": PROCESSES, "coroutines": COROUTINES}


def same(value):
    return value


async def same_later(value):
    await asyncio.sleep(0)
    return value


def fail(error):
    raise error


async def fail_later(error):
    raise error


def hold(begun, released):
    begun.set()
    released.wait(LONG)


def wait_for_file(path):
    until(path.exists)


def note_and_sleep(path, seconds=LONG):
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(seconds)
    return os.getpid()


def where_it_runs(seconds):
    time.sleep(seconds)
    return os.getpid()


class OddError(Exception):
    """It cannot be pickled back: its constructor takes another argument."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_odd():
    raise OddError(1, 2)


class HostileError(Exception):
    """Whatever is asked of it, it refuses."""

    def refuse(self, *args):
        raise SystemExit("no")

    __str__ = __repr__ = __reduce__ = refuse


@dataclass(frozen=True)
class FrozenError(Exception):
    """It refuses all attributes, also those that only say where it comes from."""

    number: int

    def __reduce__(self):
        return FrozenError, (self.number,)


def raise_frozen():
    raise FrozenError(5)


def raise_hostile():
    raise HostileError


def running_of(kind):
    """The pool of that kind in this process; None if there is none."""
    return _opened.running.get(id(kind))


def pids_of_children():
    """Those of the pool that all tests share."""
    children = running_of(PROCESSES).children
    until(lambda: all(child._process is not None for child in list(children)))
    return {child._process.pid for child in children}


@contextlib.contextmanager
def impatient(kind, begun=lambda task: True):
    """What is submitted to that pool here is late soon, but not before ``begun(task)``.

    Tasks before and after that have time, however slow the machine is.
    """
    import pytest  # not in the children

    expire = Task.expire

    def expire_then(task):
        until(lambda: begun(task))
        expire(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_of(kind), "max_wait", 0.1)
        patch.setattr(Task, "expire", expire_then)
        yield


def check_that_it_keeps_nothing(kind, how, go):
    """A pool of one place, which is taken until that file is there: tasks that have not
    begun leave it when nobody wants them any more."""
    with deferring(pools={"one": kind}):
        first = pool("one").submit(wait_for_file, go)
        until(first.running)
        runner = running_of(kind)
        with deferring(pools={"one": kind}):
            tasks = [pool("one").submit(os.getpid) for _ in range(5)]
            assert len(runner._waiting) == runner._tokens.qsize() == 5
            assert runner._load == 6
            for task in tasks:
                if how == "cancelled":
                    assert task.cancel()
                elif how == "late":
                    task.expire()
        assert len(runner._waiting) == runner._tokens.qsize() == 0
        assert runner._load == 1
        go.touch()
        first.result()
    runner.close()
