"""Tasks that are coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time

import pytest

from wsgi_defer import PoolTimeoutError, current_scope, deferring, pool
from wsgi_defer.pools import AsyncPool

from ...helpers.pools import LONG, POOLS, impatient, same_later, variable
from ...helpers.waiting import PATIENCE, until


def test_one_loop_in_one_thread(scope):
    """For all asyncio pools of the process."""

    async def where():
        return threading.current_thread(), asyncio.get_running_loop()

    with deferring(pools={"other": AsyncPool(1)}):
        (thread, loop) = pool("other").submit(where).result()
    assert pool("coroutines").submit(where).result() == (thread, loop)
    assert thread.daemon


def test_at_most_so_many_coroutines(scope):
    """The others wait for their turn, in order."""
    running, most, order = set(), [], []

    async def task(number):
        running.add(number)
        order.append(number)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(number)

    list(pool("coroutines").map(task, range(9)))
    assert max(most) == 3
    assert order == list(range(9))


@pytest.mark.promise("P7")
def test_p7_cancellation_reaches_the_coroutine(scope, ran):
    """P7: it is told, and its place is free."""
    begun = []

    async def task():
        begun.append(1)
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise

    futures = [pool("coroutines").submit(task) for _ in range(4)]
    until(lambda: len(begun) == 3)
    assert futures[0].running()
    assert futures[3].cancel()  # it has not begun
    assert all(future.cancel() for future in futures[:3])
    assert pool("coroutines").submit(same_later, 1).result() == 1
    until(lambda: ran == ["cancelled"] * 3)


@pytest.mark.promise("P9")
def test_p9_coroutines_end_with_the_request(ran):
    """P9: whatever they make of it."""
    begun, ended = threading.Event(), threading.Event()

    async def task():
        begun.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    with deferring(pools=POOLS):
        pool("coroutines").submit(task)
        assert begun.wait(PATIENCE)
    assert ended.wait(PATIENCE)


def test_max_wait_of_coroutines(ran):
    """The future fails, and the coroutine is cancelled."""
    begun, ended = threading.Event(), threading.Event()

    async def task():
        begun.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    kind = AsyncPool(1, max_wait=PATIENCE)
    with deferring(pools={"quick": kind}):
        pool("quick").submit(same_later, 1).result()
        with impatient(kind, lambda task: begun.is_set()):
            assert isinstance(pool("quick").submit(task).exception(), PoolTimeoutError)
        assert ended.wait(PATIENCE)


def test_a_coroutine_that_cancels_itself(scope):
    """It is cancelled, then."""

    async def task():
        raise asyncio.CancelledError

    future = pool("coroutines").submit(task)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert future.cancelled()


def test_the_context_of_coroutines(scope):
    """As on threads."""

    async def task():
        return variable.get(), current_scope()

    token = variable.set("view")
    future = pool("coroutines").submit(task)
    variable.reset(token)
    assert future.result() == ("view", scope)


def test_what_is_no_coroutine_function(scope):
    """A clear error where it is submitted. Objects and partials may be some."""
    import functools

    class Task:
        async def __call__(self):
            return 1

    with pytest.raises(TypeError, match="sleep is not a coroutine function"):
        pool("coroutines").submit(time.sleep, 1)
    assert pool("coroutines").submit(Task()).result() == 1
    assert pool("coroutines").submit(functools.partial(same_later, 2)).result() == 2
    with pytest.raises(TypeError, match="positional argument"):
        pool("coroutines").submit(same_later).result()
    assert pool("coroutines").submit(same_later, 1).result() == 1
