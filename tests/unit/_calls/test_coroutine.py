"""Coroutine functions run to their end, on a loop of their own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading

import pytest

from wsgi_defer import DeferMiddleware, before_response, defer, deferring

from ...helpers.client import get, text_app


async def work(ran, value):
    await asyncio.sleep(0)
    ran.append(value)
    return value


class AsyncCallable:
    async def __call__(self, ran, value):
        await work(ran, value)


def test_every_kind(ran):
    """A coroutine function, a partial, an instance, a lambda: the result counts."""

    def view():
        defer(work, ran, 1)
        defer(functools.partial(work, ran, 2))
        defer(AsyncCallable(), ran, 3)
        defer(lambda: work(ran, 4))
        before_response(work, ran, 0)

    get(DeferMiddleware(text_app(view)))
    assert ran == [0, 1, 2, 3, 4]


def test_it_may_defer_and_sees_its_context(ran):
    """The scope and the context variables are those of the defer() line."""
    var = contextvars.ContextVar("var", default=None)

    async def call():
        await asyncio.sleep(0)
        ran.append(var.get())
        defer(ran.append, "nested")

    def view():
        var.set("set")
        defer(call)

    contextvars.copy_context().run(get, DeferMiddleware(text_app(view)))
    assert ran == ["set", "nested"]


def test_failure(ran, caplog):
    """It is logged as any other."""

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("boom")

    with deferring():
        defer(fail)
        defer(ran.append, 1)
    assert ran == [1]
    assert "boom" in caplog.text


def test_tasks_left_behind_are_cancelled(ran):
    """And generators are closed, as asyncio.run() does."""

    async def forever():
        try:
            await asyncio.sleep(60)
        finally:
            ran.append("cancelled")

    async def numbers():
        try:
            yield 1
        finally:
            ran.append("closed")

    async def call():
        task = asyncio.ensure_future(forever())
        kept.append(numbers())
        await kept[0].__anext__()
        await asyncio.sleep(0)
        ran.append(task.done())

    kept = []

    with deferring():
        defer(call)
    assert ran == [False, "cancelled", "closed"]


def test_inside_a_running_loop(ran, caplog):
    """A test or a bridge may be inside a loop; the call then has a thread."""

    async def fail():
        raise ValueError("boom")

    var = contextvars.ContextVar("var")

    async def read():
        ran.append(var.get())

    async def main():
        var.set("set")
        with deferring():
            defer(work, ran, 1)
            defer(read)
            defer(lambda: work(ran, threading.current_thread().name))
            defer(fail)

    asyncio.run(main())
    assert ran == [1, "set", "MainThread"]
    assert "boom" in caplog.text


def test_the_threads_event_loop_is_left_alone(ran):
    """A view that keeps a loop of its own finds it in the next request."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with deferring():
            defer(work, ran, 1)
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert ran == [1]


@pytest.mark.parametrize("value", [0, "text", [], object()])
def test_other_results_are_ignored(ran, value):
    """Only a coroutine is run."""
    with deferring() as scope:
        defer(lambda: value)
    assert scope.finished == 1
