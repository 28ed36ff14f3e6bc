"""Coroutine functions run to their end, on the loop of the process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import sys
import threading
import types
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from wsgi_defer import (
    DeferMiddleware,
    WaitsForItselfError,
    before_response,
    defer,
    deferring,
    pool,
)
from wsgi_defer._runtime import loop as loops
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.pools import AsyncPool

from ...helpers.client import get, text_app
from ...helpers.waiting import until


async def work(ran, value):
    await asyncio.sleep(0)
    ran.append(value)
    return value


class AsyncCallable:
    async def __call__(self, ran, value):
        await work(ran, value)


@pytest.mark.promise("S2")
def test_every_kind(ran):
    """A coroutine function, a partial, an instance, a lambda: the result counts."""

    def view():
        defer(work, ran, 1)
        defer(functools.partial(work, ran, 2))
        defer(AsyncCallable(), ran, 3)
        defer(lambda: work(ran, 4))
        defer(ran.append, 5)  # a plain function among them
        before_response(work, ran, 0)

    get(DeferMiddleware(text_app(view)))
    assert ran == [0, 1, 2, 3, 4, 5]


@pytest.mark.promise("N5")
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


def test_one_lasting_loop(ran):
    """What belongs to a loop works in the next call, too; a task that is left behind
    keeps running."""
    event = []

    async def first():
        event.append(asyncio.Event())
        ran.append(asyncio.get_running_loop())
        event.append(asyncio.ensure_future(event[0].wait()))

    async def second():
        event[0].set()
        ran.append(asyncio.get_running_loop())
        return await event[1]

    for call in (first, second):
        with deferring(pools={"io": AsyncPool(1)}):
            done = defer(call)
            ran.append(pool("io").submit(loop_of).result())
    assert done.result() is True
    assert len(set(ran)) == 1


def test_one_client_for_many_calls(ran):
    """httpx keeps its connections, which belong to the loop that made them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    async def ask():
        response = await client.get(f"http://127.0.0.1:{server.server_port}/")
        ran.append(response.text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = httpx.AsyncClient()
    try:
        for _ in range(3):
            with deferring():
                defer(ask)
        with deferring():
            defer(client.aclose)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert ran == ["ok"] * 3


async def loop_of():
    return asyncio.get_running_loop()


def test_many_at_a_time(ran):
    """Those of several threads meet on the loop."""
    met = []

    async def meet():
        met.append(1)
        while len(met) < 8:
            await asyncio.sleep(0)
        ran.append(threading.current_thread().name)

    def request():
        with deferring():
            defer(meet)

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ran == ["wsgi_defer-loop"] * 8


def test_it_waits_for_itself_on_the_loop():
    """Which would hold up all others."""

    async def call():
        return waits.result()

    async def through_another():
        return defer(call_of_another).result()

    async def call_of_another():
        return other.result()

    with deferring():
        waits = defer(call)
        other = defer(through_another)
    assert isinstance(waits.exception(), WaitsForItselfError)
    assert isinstance(other.exception(), WaitsForItselfError)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_whatever_it_raises_is_its_failure(error, ran, caplog):
    """And the loop keeps running."""

    async def fail():
        raise error

    with deferring():
        failing = defer(fail)
        defer(work, ran, 1)
    assert type(failing.exception()) is error
    assert ran == [1]


def test_a_coroutine_leaves_no_cycle(caplog):
    """Its failure does not lead to the call, which leads to it."""
    caplog.set_level(logging.CRITICAL, "wsgi_defer")  # pytest keeps what is logged

    async def fail():
        raise ValueError

    def run():
        with deferring() as scope:
            defer(fail)
            return weakref.ref(defer(fail)), weakref.ref(scope)

    gc.disable()
    try:
        refs = run()
        until(lambda: not any(ref() for ref in refs))
    finally:
        gc.enable()


@pytest.mark.parametrize("why", ["no thread", "over", "gevent"])
def test_where_the_loop_cannot_be_used(ran, monkeypatch, why):
    """The call has a loop of its own, here, or in a thread inside of a loop."""
    made = PerProcess(loops.Loop)
    monkeypatch.setattr(loops, "loop", made)
    if why == "gevent":
        monkey = types.SimpleNamespace(is_module_patched="threading".__eq__)
        monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    elif why == "over":
        monkeypatch.setattr(loops.Loop, "over", True)
    else:

        def fail(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(loops, "start", fail)

    async def call():
        ran.append(threading.current_thread())
        ran.append(asyncio.ensure_future(asyncio.sleep(60)))
        await asyncio.sleep(0)

    with deferring():
        defer(call)
    assert ran[0] is threading.current_thread()
    assert ran.pop().cancelled()

    async def main():
        with deferring():
            defer(work, ran, "done")

    asyncio.run(main())
    assert ran[1:] == ["done"]


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
