"""Pools: several things at the same time, inside a request."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import math
import pickle
import threading
import time
import weakref

import pytest
from flask import Flask, request

from wsgi_defer import (
    DeferMiddleware,
    NoScopeError,
    PoolTimeoutError,
    UnknownPoolError,
    background,
    defer,
    deferring,
    gather,
    pool,
)
from wsgi_defer.flask import Defer
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool

from ...helpers.client import get, text_app
from ...helpers.every_pool import *  # noqa: F403  # its tests, which are run here
from ...helpers.pools import LONG, POOLS, fail, hold, same, same_later, variable
from ...helpers.waiting import PATIENCE, until


@pytest.fixture(params=["threads", "coroutines"])
def name(request):
    """Of the pool that those tests are for."""
    return request.param


# Configuration


def test_the_default_pool_is_always_there():
    """Eight threads, half a minute; also beside others, and in a request."""
    with deferring():
        assert (pool().size, pool().max_wait) == (8, 30)
        assert pool().submit(same, 1).result() == 1
    with deferring(pools=POOLS):
        assert (pool().name, pool().size) == ("default", 8)
    seen = []
    get(DeferMiddleware(text_app(lambda: seen.append(pool().size))))
    assert seen == [8]


@pytest.mark.promise("P1")
def test_p1_a_named_pool_is_that_pool():
    """P1: its thread is none of the default pool's, and its size is its own."""
    pools = {"default": ThreadPool(1), "named": ThreadPool(3)}
    with deferring(pools=pools):
        first = pool().submit(threading.get_ident).result()
        second = pool("named").submit(threading.get_ident).result()
        assert first != second
        assert first == pool().submit(threading.get_ident).result()
        assert (pool().size, pool("named").size) == (1, 3)


@pytest.mark.promise("P2")
def test_p2_an_unknown_pool(scope):
    """P2: for each use of it. The error says which there are."""
    with pytest.raises(UnknownPoolError) as caught:
        pool("external")
    assert caught.value.pool == "external"
    assert caught.value.known == ("default", "threads", "processes", "coroutines")
    assert "'external'" in str(caught.value)
    assert "'threads'" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.promise("P12")
@pytest.mark.parametrize("kind", [ThreadPool, ProcessPool, AsyncPool])
def test_p12_wrong_sizes(kind):
    """P12: they are refused where they are written."""
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            kind(size)
    for size in (1.5, "8", True, None):
        with pytest.raises(TypeError, match=f"{kind.__name__} takes the number"):
            kind(size)
    for max_wait in (0, -1, math.nan):
        with pytest.raises(ValueError, match="max_wait"):
            kind(1, max_wait=max_wait)
    assert repr(kind(2, max_wait=5)) == f"{kind.__name__}(2, max_wait=5)"


@pytest.mark.promise("P12")
def test_p12_double_names():
    """P12: two pools of one name, or one pool of two names."""
    pairs = [("a", ThreadPool(1)), ("a", ThreadPool(2))]
    with pytest.raises(ValueError, match="two pools of the name 'a'"):
        DeferMiddleware(text_app(int), pools=pairs)
    one = ThreadPool(1)
    with pytest.raises(ValueError, match="'a' and 'b' are the same"):
        DeferMiddleware(text_app(int), pools={"a": one, "b": one})


@pytest.mark.promise("P12")
@pytest.mark.parametrize("pools", [{"a": 8}, {1: ThreadPool(1)}, {"a": ThreadPool}])
def test_p12_what_is_no_pool(pools):
    """P12: the middleware refuses it, not the first request."""
    with pytest.raises(TypeError, match="names with a ThreadPool"):
        DeferMiddleware(text_app(int), pools=pools)
    with pytest.raises(TypeError), deferring(pools=pools):
        pass


def test_pools_of_an_inner_middleware():
    """The outer one does the work, and takes over pools as it has none."""
    seen = []
    inner = DeferMiddleware(
        text_app(lambda: seen.append(pool("threads").size)), pools=POOLS
    )
    get(DeferMiddleware(inner))
    get(DeferMiddleware(inner, pools={"threads": ThreadPool(2)}))
    assert seen == [4, 2]


def test_pools_of_a_scope_inside_a_request():
    """It has those of the request, unless it has its own."""
    with deferring(pools={"shop": ThreadPool(2)}):
        with deferring():
            assert pool("shop").submit(same, 1).result() == 1
        with deferring(pools={}), pytest.raises(UnknownPoolError):
            pool("shop")


def test_outside_a_request():
    """The error says what to do."""
    with pytest.raises(NoScopeError, match=r"pool\(\) was called outside"):
        pool()
    with pytest.raises(NoScopeError, match=r"gather\(\)"):
        gather([int])


def test_what_is_no_function(scope):
    """It is refused."""
    with pytest.raises(TypeError, match="is int, which cannot be called"):
        pool().submit(3)


@pytest.mark.parametrize("name", ["threads", "coroutines"])
def test_a_plain_function_that_calls_a_coroutine_function(scope, name):
    """No pool runs it, and both say what to do, and not each the other."""
    with pytest.raises(TypeError, match="wrap it: async def f"):
        pool(name).submit(lambda: same_later(1)).result()


def test_flask():
    """The request of the view is that of the task; pools are for commands, too."""
    app = Flask("pools")
    Defer(app, pools={"small": ThreadPool(2)})

    @app.get("/")
    def view():
        return "".join(pool("small").map(lambda key: request.args[key], "ab"))

    @app.cli.command("size")
    def command():
        print(pool("small").size)

    assert app.test_client().get("/?a=x&b=y").text == "xy"
    assert app.test_cli_runner().invoke(args=["size"]).output == "2\n"


# Time


@pytest.mark.promise("L33")
def test_l33_result_with_a_timeout(scope, released):
    """L33: the caller is bounded, the error names pool and function, the task goes on.

    P4: other than in Pogo, where that is its end.
    """
    future = pool("threads").submit(released.wait, LONG)
    for ask in (future.result, future.exception):
        with pytest.raises(PoolTimeoutError) as caught:
            ask(0.01)
        error = caught.value
        assert (error.pool, error.seconds) == ("threads", 0.01)
        assert error.function.endswith("Event.wait")
        assert isinstance(error, TimeoutError)
        assert isinstance(error, concurrent.futures.TimeoutError)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    released.set()
    assert future.result(PATIENCE) is True


def test_a_new_pool_with_less_time(scope, released):
    """The thread that watches does not sleep until an older task is due."""
    older = pool("threads").submit(released.wait, LONG)
    with deferring(pools={"quick": ThreadPool(1, max_wait=0.01)}):
        late = pool("quick").submit(released.wait, LONG)
        assert isinstance(late.exception(PATIENCE / 2), PoolTimeoutError)
    until(older.running)


def test_no_max_wait():
    """math.inf is none."""
    with deferring(pools={"patient": ThreadPool(1, max_wait=math.inf)}):
        assert pool("patient").submit(same, 1).result() == 1
        assert gather([lambda: pool("patient").submit(same, 1).result()]) == [1]


# The end of the request


@pytest.mark.promise("P9")
def test_p9_what_nobody_awaited_is_cancelled(released, ran):
    """P9: one that waits is cancelled, one that runs is abandoned."""
    begun, futures = threading.Event(), []

    def view():
        small = pool("small")
        futures.append(small.submit(hold, begun, released))
        futures.extend(small.submit(ran.append, n) for n in range(3))
        assert begun.wait(PATIENCE)

    began = time.monotonic()
    get(DeferMiddleware(text_app(view), pools={"small": ThreadPool(1)}))
    assert time.monotonic() - began < PATIENCE / 2
    assert [future.cancelled() for future in futures] == [False, True, True, True]
    for future in futures:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
    released.set()
    assert ran == []


@pytest.mark.promise("P9")
@pytest.mark.parametrize("how", ["list", "stream", "early", "raises", "deferred"])
def test_p9_however_the_response_ends(released, how):
    """P9: a finished list, a stream, one that is left early, an error, with calls."""
    begun, futures = threading.Event(), []

    def app(environ, start_response):
        futures.append(pool("threads").submit(hold, begun, released))
        assert begun.wait(PATIENCE)
        if how == "raises":
            raise ValueError
        start_response("200 OK", [("Content-Length", "3")])
        if how == "deferred":
            defer(released.is_set)
        if how in ("stream", "early"):
            return (item for item in (b"a", b"b", futures[0].running() and b"c"))
        return [b"abc"]

    wrapped = DeferMiddleware(app, pools=POOLS)
    with pytest.raises(ValueError) if how == "raises" else contextlib.nullcontext():
        get(wrapped, stop_after=1 if how == "early" else None)
    background.join(PATIENCE)
    assert futures[0].done()
    assert isinstance(futures[0].exception(), concurrent.futures.CancelledError)


def test_a_body_that_the_server_drops(released, ran):
    """Its tasks end, too, from the background thread."""
    begun, futures = threading.Event(), []

    def app(environ, start_response):
        futures.append(pool("threads").submit(hold, begun, released))
        start_response("200 OK", [])
        assert begun.wait(PATIENCE)

        class Body:
            def __iter__(self):
                return iter([b"abc"])

        return Body()

    body = DeferMiddleware(app, pools=POOLS)({}, lambda *args: None)
    futures[0].add_done_callback(lambda _: ran.append(threading.current_thread().name))
    del body
    until(lambda: ran)
    assert ran == ["wsgi_defer"]
    assert isinstance(futures[0].exception(), concurrent.futures.CancelledError)


def test_a_stream_may_await_tasks_of_the_view():
    """The request has not ended as long as the body has not."""

    def app(environ, start_response):
        future = pool("threads").submit(same, b"later")
        start_response("200 OK", [])
        return (future.result() for _ in range(2))

    assert get(DeferMiddleware(app, pools=POOLS)).body == b"laterlater"


def test_deferred_calls_may_await_tasks_of_the_view(ran):
    """And they may submit some, until the last one has run."""

    def view():
        future = pool("threads").submit(same, 1)
        defer(lambda: ran.append(future.result()))
        defer(lambda: ran.append(pool("threads").submit(same, 2).result()))

    get(DeferMiddleware(text_app(view), pools=POOLS))
    assert ran == [1, 2]


@pytest.mark.promise("L34")
def test_l34_gather_after_the_response(ran):
    """L34: nothing now, all of it after the response, and results are dropped."""

    def view():
        defer(gather, [lambda: ran.append(1), lambda: ran.append(1)])
        assert ran == []

    get(DeferMiddleware(text_app(view)))
    assert ran == [1, 1]


def test_an_order_to_stop_ends_tasks_too(released):
    """The scope is closed as lost, and so are its tasks."""
    from wsgi_defer._calls.drain import report_lost

    begun = threading.Event()
    with deferring(pools=POOLS) as scope:
        future = pool("threads").submit(hold, begun, released)
        assert begun.wait(PATIENCE)
        report_lost(scope, "a test")
        assert future.done()


def test_a_task_lets_go_of_the_request():
    """Its arguments live no longer than it, even if the future is kept."""

    class Thing:
        pass

    thing = Thing()
    seen = weakref.ref(thing)
    with deferring(pools=POOLS) as scope:
        token = variable.set(thing)
        future = pool("threads").submit(id, thing)
        failed = pool("threads").submit(fail, ValueError())
        assert future.result() == id(thing)
        failed.exception()
        variable.reset(token)
        assert scope.guests == {}
    ended = weakref.ref(scope)
    del thing, token

    def is_gone():
        gc.collect()  # the token's context
        return seen() is None

    # A thread lets go of a task a moment after its end.
    until(is_gone)
    del scope
    assert ended() is None


def test_a_failed_task_is_no_cycle():
    """The collector of garbage is not needed for it."""
    with deferring(pools=POOLS):
        gc.disable()
        try:
            task = pool("threads").submit(fail, ValueError())
            with contextlib.suppress(ValueError):
                task.result()
            seen = weakref.ref(task)
            # A thread lets go of it a moment after its end.
            pool("threads").submit(same, 1).result()
            del task
            until(lambda: seen() is None)
        finally:
            gc.enable()


@pytest.mark.promise("P7")
def test_p7_cancel_before_it_begins(ran, released):
    """P7: it is removed, those who wait are told, and it never runs."""
    with deferring(pools={"small": ThreadPool(1)}):
        begun = threading.Event()
        first = pool("small").submit(hold, begun, released)
        waiting = pool("small").submit(ran.append, 1)
        assert begun.wait(PATIENCE)
        timer = threading.Timer(0.05, waiting.cancel)
        timer.start()
        done, _ = concurrent.futures.wait([waiting], PATIENCE)
        timer.join()
        assert done == {waiting}
        assert waiting.cancel()  # once more
        assert not first.cancel()
        assert first.running()
        assert not waiting.running()
        released.set()
        assert pool("small").submit(same, 1).result() == 1
    assert ran == []
