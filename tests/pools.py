"""Pools that tests share, and jobs for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from contextvars import ContextVar

from wsgi_defer import deferring, pool
from wsgi_defer._job import Job
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool

from .waiting import PATIENCE, until

LONG = 30  # seconds of a job that is not waited for
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


def raise_hostile():
    raise HostileError


def pids_of_children():
    """Those of the pool that all tests share."""
    children = PROCESSES._running.children
    until(lambda: all(child._process is not None for child in list(children)))
    return {child._process.pid for child in children}


@contextlib.contextmanager
def impatient(kind, begun=lambda job: True):
    """What is submitted to that pool here is late soon, but not before ``begun(job)``.

    Jobs before and after that have time, however slow the machine is.
    """
    import pytest  # not in the children

    expire = Job.expire

    def expire_then(job):
        until(lambda: begun(job))
        expire(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind._running, "max_wait", 0.1)
        patch.setattr(Job, "expire", expire_then)
        yield


def check_that_it_keeps_nothing(kind, how, go):
    """A pool of one place, which is taken until that file is there: jobs that have not
    begun leave it when nobody wants them any more."""
    with deferring(pools={"one": kind}):
        first = pool("one").submit(wait_for_file, go)
        until(first.running)
        running = kind._running
        with deferring(pools={"one": kind}):
            jobs = [pool("one").submit(os.getpid) for _ in range(5)]
            assert len(running._waiting) == running._tokens.qsize() == 5
            assert running._load == 6
            for job in jobs:
                if how == "cancelled":
                    assert job.cancel()
                elif how == "late":
                    job.expire()
        assert len(running._waiting) == running._tokens.qsize() == 0
        assert running._load == 1
        go.touch()
        first.result()
    running.close()
