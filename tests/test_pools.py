"""Pools: several things at the same time, inside a request."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import math
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from contextvars import ContextVar
from pathlib import Path

import pytest
from flask import Flask, request

from wsgi_defer import (
    DeferMiddleware,
    NoScopeError,
    PoolStartError,
    PoolTimeoutError,
    RemoteError,
    ScopeClosedError,
    UnknownPoolError,
    UnpicklableError,
    WorkerDiedError,
    _host,
    _process_child,
    background,
    current_scope,
    defer,
    deferring,
    gather,
    pool,
)
from wsgi_defer._job import Job
from wsgi_defer._process_handle import Child
from wsgi_defer._process_pool import Place
from wsgi_defer.flask import Defer
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool

from .client import get, text_app
from .waiting import PATIENCE, until

LONG = 30  # seconds of a job that is not waited for
variable = ContextVar("variable", default=None)

THREADS = ThreadPool(4, max_wait=PATIENCE)
# One for all tests, because a process takes its time to start.
PROCESSES = ProcessPool(2, max_wait=PATIENCE)
COROUTINES = AsyncPool(3, max_wait=PATIENCE)
POOLS = {"threads": THREADS, "processes": PROCESSES, "coroutines": COROUTINES}


@pytest.fixture
def scope():
    with deferring(pools=POOLS) as scope:
        yield scope


@pytest.fixture(autouse=True)
def no_job_is_left():
    """Whatever a test did, no pool remembers a job of it."""
    yield
    for kind in POOLS.values():
        if kind._running is not None:
            assert not kind._running.jobs


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


class OddError(Exception):
    """It cannot be pickled back: its constructor takes another argument."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


ALL = pytest.mark.parametrize(
    ("name", "function"),
    [("threads", same), ("processes", same), ("coroutines", same_later)],
)
FAILING = pytest.mark.parametrize(
    ("name", "function"),
    [("threads", fail), ("processes", fail), ("coroutines", fail_later)],
)


# What every pool does


@ALL
def test_submit(scope, name, function):
    """The result comes back, falsy ones, too; it is a real future."""
    futures = [pool(name).submit(function, value) for value in (7, 0, None, "")]
    assert [future.result() for future in futures] == [7, 0, None, ""]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    assert [future.done() for future in futures] == [True] * 4
    assert not any(future.running() or future.cancelled() for future in futures)


@ALL
def test_wait_and_as_completed(scope, name, function):
    """concurrent.futures works with them."""
    futures = {pool(name).submit(function, value) for value in range(5)}
    done, rest = concurrent.futures.wait(futures, PATIENCE)
    assert (done, rest) == (futures, set())
    completed = concurrent.futures.as_completed(futures, PATIENCE)
    assert sorted(future.result() for future in completed) == [0, 1, 2, 3, 4]


@ALL
def test_map_returns_in_input_order(scope, name, function):
    """All at once, for any number of iterables, lazily read."""
    assert list(pool(name).map(function, range(9))) == list(range(9))
    assert list(pool("threads").map(pow, [2, 3, 4], [3, 2])) == [8, 9]


@ALL
def test_arguments_all_belong_to_the_function(scope, name, function):
    """Keyword arguments, too."""
    assert pool(name).submit(function, value="x").result() == "x"


@FAILING
@pytest.mark.parametrize("args", [(), ("text", 0), (False,), ("",)])
def test_l32_an_exception_has_its_class_and_arguments(scope, name, function, args):
    """L32: and arguments that are falsy survive."""
    error = pool(name).submit(function, LookupError(*args)).exception()
    assert type(error) is LookupError
    assert error.args == args


@FAILING
def test_p8_the_error_text_reaches_the_caller(scope, name, function):
    """P8: and the traceback with it, or its text, down to the line that raised."""
    with pytest.raises(ValueError, match="boom") as caught:
        pool(name).submit(function, ValueError("boom")).result()
    assert f"in {function.__name__}" in "".join(
        traceback.format_exception(caught.value)
    )


def test_the_original_exception(scope):
    """From a thread it is the same object."""
    error = ValueError("boom")
    assert pool("threads").submit(fail, error).exception() is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OSError()])
@FAILING
def test_exceptions_of_all_kinds(scope, name, function, error):
    """They come back, and the pool goes on."""
    raised = pool(name).submit(function, error).exception()
    if name == "processes" and isinstance(error, SystemExit):  # it is to end no worker
        assert type(raised) is RemoteError
        assert raised.args == ("SystemExit", "3")
    else:
        assert (type(raised), raised.args) == (type(error), error.args)
    fine = same_later if name == "coroutines" else same
    assert pool(name).submit(fine, 1).result() == 1


@FAILING
def test_a_timeout_error_of_the_job_is_its_own(scope, name, function):
    """It is not taken for one of waiting."""
    with pytest.raises(TimeoutError) as caught:
        pool(name).submit(function, TimeoutError("of a socket")).result(PATIENCE)
    assert type(caught.value) is TimeoutError


@ALL
def test_p5_a_result_may_be_asked_for_twice(scope, name, function):
    """P5: other than in Pogo, as with all futures."""
    future = pool(name).submit(function, [1])
    assert future.result() is future.result()


@ALL
def test_p3_each_job_is_its_own(scope, name, function):
    """P3: a handle needs no name of its pool to be awaited."""
    other = pool("threads").submit(same, "other")
    future = pool(name).submit(function, "one")
    assert future is not other
    assert (future.result(), other.result()) == ("one", "other")


@ALL
def test_callbacks(scope, ran, name, function):
    """They are called once, also when it has ended before."""
    future = pool(name).submit(function, 1)
    concurrent.futures.wait([future])
    future.add_done_callback(lambda future: ran.append(future.result()))
    assert ran == [1]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises(scope, released, caplog, error):
    """It is logged, and the pool goes on."""
    future = pool("threads").submit(released.wait, LONG)
    future.add_done_callback(lambda future: fail(error("in a callback")))
    released.set()
    assert future.result() is True
    until(lambda: "in a callback" in caplog.text)
    assert list(pool("threads").map(same, range(9))) == list(range(9))


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


def test_p1_a_named_pool_is_that_pool():
    """P1: its thread is none of the default pool's, and its size is its own."""
    pools = {"default": ThreadPool(1), "named": ThreadPool(3)}
    with deferring(pools=pools):
        first = pool().submit(threading.get_ident).result()
        second = pool("named").submit(threading.get_ident).result()
        assert first != second
        assert first == pool().submit(threading.get_ident).result()
        assert (pool().size, pool("named").size) == (1, 3)


def test_p2_an_unknown_pool(scope):
    """P2: for each use of it. The error says which there are."""
    with pytest.raises(UnknownPoolError) as caught:
        pool("external")
    assert caught.value.pool == "external"
    assert caught.value.known == ("default", "threads", "processes", "coroutines")
    assert "'external'" in str(caught.value)
    assert "'threads'" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


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


def test_p12_double_names():
    """P12: two pools of one name, or one pool of two names."""
    pairs = [("a", ThreadPool(1)), ("a", ThreadPool(2))]
    with pytest.raises(ValueError, match="two pools of the name 'a'"):
        DeferMiddleware(text_app(int), pools=pairs)
    one = ThreadPool(1)
    with pytest.raises(ValueError, match="'a' and 'b' are the same"):
        DeferMiddleware(text_app(int), pools={"a": one, "b": one})


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


@ALL
def test_after_the_request(name, function):
    """A handle that was kept is of no use."""
    with deferring(pools=POOLS):
        kept = pool(name)
    with pytest.raises(ScopeClosedError, match=r"submit\(\)"):
        kept.submit(function, 1)


def test_what_is_no_function(scope):
    """It is refused."""
    with pytest.raises(TypeError, match="is int, which cannot be called"):
        pool().submit(3)


def test_a_pool_is_made_once_per_process_and_on_first_use():
    """A child process that the app forks makes its own."""
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert kind._running is None
        pool("one").submit(same, 1).result()
        made = kind._running
        pid = os.fork()
        if not pid:
            status = 1
            with contextlib.suppress(BaseException):
                status = 3 if kind._running is None else 4
                if pool("one").submit(same, 5).result(5) == 5:
                    status += 10
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13
        assert pool("one").submit(same, 1).result() == 1
        assert kind._running is made


def test_a_child_process_does_not_end_jobs_of_its_parent(released):
    """It has copies of its scopes, as of all."""
    begun = threading.Event()
    with deferring(pools=POOLS) as scope:
        future = pool("threads").submit(hold, begun, released)
        assert begun.wait(PATIENCE)
        pid = os.fork()
        if not pid:
            scope.closed = True
            scope.end_guests()
            os._exit(3 if future.running() else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert future.running()


def test_a_pool_that_nobody_knows_any_more():
    """Its threads end."""
    kind = ThreadPool(2)
    with deferring(pools={"one": kind}):
        threads = set(pool("one").map(lambda _: threading.current_thread(), range(5)))
    del kind
    gc.collect()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# Time


def test_l33_result_with_a_timeout(scope, released):
    """L33: the caller is bounded, the error names pool and function, the job goes on.

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


@ALL
def test_p6_a_negative_timeout(scope, name, function):
    """P6: it is an error, and does not consume the job."""
    future = pool(name).submit(function, 1)
    for ask in (future.result, future.exception):
        with pytest.raises(ValueError, match="0 or more, not -1"):
            ask(-1)
    assert future.result() == 1
    with pytest.raises(ValueError, match="0 or more"):
        gather([int], timeout=-0.1)


def test_p10_max_wait_counts_from_submit(released):
    """P10: waiting for a thread and running together, for each of them."""
    with deferring(pools={"small": ThreadPool(1, max_wait=0.2)}):
        began = time.monotonic()
        running = pool("small").submit(released.wait, LONG)
        waiting = pool("small").submit(released.wait, LONG)
        for future in (running, waiting):
            with pytest.raises(PoolTimeoutError, match=r"pool 'small' .* 0\.2 s"):
                future.result(PATIENCE)
            assert future.done()
        assert 0.19 < time.monotonic() - began < 5


def test_p4_a_late_result_disturbs_nobody(released, caplog):
    """P4: the thread of a job that was too late is another one's at once."""
    with deferring(pools={"late": ThreadPool(1, max_wait=0.1)}):
        late = pool("late").submit(lambda: (released.wait(LONG), 1 / 0))
        assert isinstance(late.exception(PATIENCE), PoolTimeoutError)
        assert pool("late").submit(same, 1).result() == 1
        released.set()
        assert pool("late").submit(same, 2).result() == 2
        assert isinstance(late.exception(), PoolTimeoutError)
    assert "late" not in caplog.text  # other tests may still be heard


def test_a_new_pool_with_less_time(scope, released):
    """The thread that watches does not sleep until an older job is due."""
    older = pool("threads").submit(released.wait, LONG)
    with deferring(pools={"quick": ThreadPool(1, max_wait=0.05)}):
        late = pool("quick").submit(released.wait, LONG)
        assert isinstance(late.exception(PATIENCE / 2), PoolTimeoutError)
    assert older.running()


def test_no_max_wait():
    """math.inf is none."""
    with deferring(pools={"patient": ThreadPool(1, max_wait=math.inf)}):
        assert pool("patient").submit(same, 1).result() == 1
        assert gather([lambda: pool("patient").submit(same, 1).result()]) == [1]


def test_p11_at_the_same_time(scope):
    """P11: two sleeps of 250 ms end well under 0.5 s."""
    began = time.monotonic()
    gather([lambda: time.sleep(0.25)] * 2)
    assert time.monotonic() - began < 0.45


def test_a_job_that_waits_for_its_own_pool():
    """No deadlock for ever: max_wait ends it, and says what may be the reason."""
    with deferring(pools={"small": ThreadPool(1, max_wait=0.2)}):

        def outer():
            return pool("small").submit(same, 1).result()

        with pytest.raises(PoolTimeoutError, match="own pool"):
            pool("small").submit(outer).result(PATIENCE)
        assert pool("small").submit(same, 1).result() == 1


# The end of the request


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
    """Its jobs end, too, from the background thread."""
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


def test_a_stream_may_await_jobs_of_the_view():
    """The request has not ended as long as the body has not."""

    def app(environ, start_response):
        future = pool("threads").submit(same, b"later")
        start_response("200 OK", [])
        return (future.result() for _ in range(2))

    assert get(DeferMiddleware(app, pools=POOLS)).body == b"laterlater"


def test_deferred_calls_may_await_jobs_of_the_view(ran):
    """And they may submit some, until the last one has run."""

    def view():
        future = pool("threads").submit(same, 1)
        defer(lambda: ran.append(future.result()))
        defer(lambda: ran.append(pool("threads").submit(same, 2).result()))

    get(DeferMiddleware(text_app(view), pools=POOLS))
    assert ran == [1, 2]


def test_l34_gather_after_the_response(ran):
    """L34: nothing now, all of it after the response, and results are dropped."""

    def view():
        defer(gather, [lambda: ran.append(1), lambda: ran.append(1)])
        assert ran == []

    get(DeferMiddleware(text_app(view)))
    assert ran == [1, 1]


def test_an_order_to_stop_ends_jobs_too(released):
    """The scope is closed as lost, and so are its jobs."""
    from wsgi_defer._drain import report_lost

    begun = threading.Event()
    with deferring(pools=POOLS) as scope:
        future = pool("threads").submit(hold, begun, released)
        assert begun.wait(PATIENCE)
        report_lost(scope, "a test")
        assert future.done()


def test_a_job_lets_go_of_the_request():
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
        assert scope._guests == {}
    ended = weakref.ref(scope)
    del thing, token
    gc.collect()  # the token's context
    assert seen() is None
    del scope
    assert ended() is None


def test_a_failed_job_is_no_cycle():
    """The collector of garbage is not needed for it."""
    with deferring(pools=POOLS):
        gc.disable()
        try:
            job = pool("threads").submit(fail, ValueError())
            with contextlib.suppress(ValueError):
                job.result()
            seen = weakref.ref(job)
            # A thread lets go of it a moment after its end.
            pool("threads").submit(same, 1).result()
            del job
            until(lambda: seen() is None)
        finally:
            gc.enable()


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


# Threads


def test_the_context_is_carried_over(scope):
    """That of the submit line, and each job has a copy of its own."""

    def job():
        before = variable.get()
        variable.set("job")
        return before, current_scope()

    token = variable.set("view")
    futures = [pool("threads").submit(job) for _ in range(3)]
    variable.reset(token)
    assert [future.result() for future in futures] == [("view", scope)] * 3


def test_flask():
    """The request of the view is that of the job; pools are for commands, too."""
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


def test_jobs_may_submit_and_defer(ran):
    """They are inside the request."""
    with deferring(pools=POOLS):

        def job():
            defer(ran.append, 1)
            return pool("threads").submit(same, 2).result()

        assert pool("threads").submit(job).result() == 2
    assert ran == [1]


def test_a_coroutine_function_on_threads(scope):
    """It is an error, and no warning about a coroutine that was never awaited."""
    with pytest.raises(TypeError, match="same_later is a coroutine function"):
        pool("threads").submit(same_later, 1).result()


@pytest.mark.parametrize("name", ["threads", "coroutines"])
def test_a_plain_function_that_calls_a_coroutine_function(scope, name):
    """No pool runs it, and both say what to do, and not each the other."""
    with pytest.raises(TypeError, match="wrap it: async def f"):
        pool(name).submit(lambda: same_later(1)).result()


def test_threads_start_as_they_are_needed_and_are_daemons():
    """Never more than the size."""
    kind = ThreadPool(3)
    with deferring(pools={"three": kind}):
        for _ in range(20):
            pool("three").submit(same, 1).result()
        assert kind._running._threads <= 2
        barrier = threading.Barrier(3)
        jobs = [pool("three").submit(barrier.wait, PATIENCE) for _ in range(9)]
        assert sorted(job.result() for job in jobs) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert kind._running._threads == 3
        thread = pool("three").submit(threading.current_thread).result()
        assert thread.daemon


def test_abandoned_jobs_do_not_starve_the_pool(released, caplog):
    """Each thread is replaced, up to the size of the pool; then the log says so."""
    kind = ThreadPool(2)
    begun = []

    def job():
        begun.append(1)
        released.wait(LONG)

    for number in range(1, 4):
        with deferring(pools={"two": kind}):
            jobs = [pool("two").submit(job) for _ in range(2 if number < 3 else 1)]
            if number < 3:
                until(lambda number=number: len(begun) == 2 * number)
            del jobs
    assert "the pool 'two' has abandoned 2 jobs that still run" in caplog.text
    released.set()
    until(lambda: not kind._running._abandoned)
    with deferring(pools={"two": kind}):
        barrier = threading.Barrier(2)
        jobs = [pool("two").submit(barrier.wait, PATIENCE) for _ in range(2)]
        assert sorted(job.result() for job in jobs) == [0, 1]
    assert kind._running._load == 0


@pytest.mark.parametrize("how", ["cancelled", "late", "request over"])
@pytest.mark.parametrize("make", [ThreadPool, ProcessPool])
def test_a_pool_that_hangs_keeps_nothing(make, how, tmp_path):
    """Jobs that have not begun leave it when nobody wants them any more."""
    kind = make(1, max_wait=PATIENCE)
    with deferring(pools={"one": kind}):
        first = pool("one").submit(wait_for_file, tmp_path / "go")
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
        (tmp_path / "go").touch()
        first.result()
    running.close()


def wait_for_file(path):
    until(path.exists)


def test_a_token_without_a_job(released):
    """It is harmless; and so is a job that goes when a thread has its token."""
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert pool("one").submit(same, 1).result() == 1
        kind._running._tokens.put(None)
        assert pool("one").submit(same, 2).result() == 2
        first = pool("one").submit(hold, threading.Event(), released)
        until(first.running)
        second = pool("one").submit(same, 3)
        kind._running._tokens.get_nowait()
        assert second.cancel()
        released.set()
        assert pool("one").submit(same, 4).result() == 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_order_to_stop_inside_submit(monkeypatch, moment):
    """It costs the pool no place, whether the thread has been started or not."""
    start = threading.Thread.start

    def strike(thread):
        if thread.name != "wsgi_defer-pool":
            return start(thread)
        if moment == "after":
            start(thread)
        raise _host.TimeUp

    kind = ThreadPool(1)
    with deferring(pools={"one": kind}) as scope:
        monkeypatch.setattr(threading.Thread, "start", strike)
        with pytest.raises(_host.TimeUp):
            pool("one").submit(same, 1)
        monkeypatch.undo()
        assert scope._guests == {}
        assert pool("one").submit(same, 2).result(PATIENCE) == 2
        until(lambda: (kind._running._load, kind._running._threads) == (0, 1))
        kind._running._work()  # a thread that begins although its place is taken
        kind._running._start_thread()  # and one that is not needed any more
        assert (kind._running._threads, kind._running._starting) == (1, set())


def test_no_thread_can_be_started(monkeypatch):
    """The first submit says so; a pool that has one goes on with it."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "wsgi_defer-pool":
            raise RuntimeError("can't start new thread")
        start(thread)

    kind = ThreadPool(2)
    with deferring(pools={"two": kind}) as scope:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            pool("two").submit(same, 1)
        assert scope._guests == {}
        monkeypatch.undo()
        assert pool("two").submit(same, 1).result() == 1


def test_no_growth():
    """1000 requests leave no threads, descriptors, jobs or memory behind."""
    kind = ThreadPool(4)

    def view():
        pool("four").submit(same, 1).result()
        pool("four").submit(same, 2)  # nobody awaits it
        gather({"a": int, "b": str})

    app = DeferMiddleware(text_app(view), pools={"four": kind})

    def serve(times):
        for _ in range(times):
            get(app)
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return threading.active_count(), len(os.listdir("/proc/self/fd")), pages

    serve(200)
    threads, descriptors, pages = serve(100)
    after = serve(1000)
    assert after[0] <= threads + 2  # those that were not needed before
    assert after[1] <= descriptors
    assert (after[2] - pages) * resource.getpagesize() < 2_000_000
    until(lambda: not kind._running._load)
    assert not kind._running.jobs


# Processes


variable_of_module = []


def read_variable():
    return variable_of_module


def test_processes_are_others(scope):
    """Not forked from this one, so they know nothing of the request."""
    future = pool("processes").submit(os.getpid)
    assert future.result() != os.getpid()
    variable_of_module.append("written in the parent")
    assert pool("processes").submit(read_variable).result() == []
    assert pool("processes").submit(current_scope).result() is None


def test_p13_what_cannot_be_pickled(scope):
    """P13: pickle and not JSON; what it cannot do is an error at submit."""
    for fn, args in ((lambda: 1, ()), (same, (threading.Lock(),))):
        with pytest.raises(UnpicklableError) as caught:
            pool("processes").submit(fn, *args)
        assert (caught.value.pool, caught.value.what) == ("processes", "call")
        assert re.search(r"Error in (function|lock)\)", str(caught.value))
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert pool("processes").submit(same, {1: (2, b"3")}).result() == {1: (2, b"3")}


def test_p13_a_result_that_cannot_be_pickled(scope):
    """P13: the job fails, and says why."""
    with pytest.raises(UnpicklableError, match="the result of _thread") as caught:
        pool("processes").submit(threading.Lock).result()
    assert caught.value.why == "TypeError in lock"


class Private:
    """Nothing that it does is to be seen in a log."""

    def __init__(self, where):
        self.where = where

    def __repr__(self):
        return "a secret"

    def __reduce__(self):
        if self.where == "sent":
            raise pickle.PicklingError(f"Can't pickle {self!r}")
        return open_here, (os.getpid(), repr(self))


def open_here(pid, secret):
    """What comes from another process cannot be opened."""
    if os.getpid() != pid:
        raise LookupError(secret)


@pytest.mark.parametrize("what", ["call", "result"])
@pytest.mark.parametrize("where", ["sent", "received"])
def test_errors_of_pickle_show_no_arguments(scope, what, where):
    """Their text does, so that neither the error nor its traceback has it."""
    call = (same, Private(where)) if what == "call" else (Private, where)
    with pytest.raises((UnpicklableError, LookupError)) as caught:
        pool("processes").submit(*call).result()
    text = "".join(traceback.format_exception(caught.value))
    if (what, where) == ("call", "received"):  # the app's own error, in the child
        assert caught.type is LookupError
    else:
        assert caught.value.what == what
        assert "secret" not in text


def test_an_exception_that_cannot_be_sent(scope):
    """Its class and text come, and its traceback."""
    with pytest.raises(RemoteError, match="OddError: 1 and 2") as caught:
        pool("processes").submit(raise_odd).result()
    assert caught.value.kind == "OddError"
    assert "in raise_odd" in str(caught.value.__cause__)


def raise_odd():
    raise OddError(1, 2)


class HostileError(Exception):
    """Whatever is asked of it, it refuses."""

    def refuse(self, *args):
        raise SystemExit("no")

    __str__ = __repr__ = __reduce__ = refuse


def raise_hostile():
    raise HostileError


class NoError(Exception):
    """It arrives as something else."""

    def __reduce__(self):
        return int, ()


def test_an_exception_that_cannot_even_be_shown(scope):
    """The child survives it."""
    pool("processes").submit(same, 1).result()
    before = pids_of_children()
    for fn, kind in ((raise_hostile, "HostileError"), (raise_no_error, "NoError")):
        with pytest.raises(RemoteError) as caught:
            pool("processes").submit(fn).result()
        assert caught.value.kind == kind
        assert f"in {fn.__name__}" in str(caught.value.__cause__)
    with pytest.raises(UnpicklableError, match="SystemExit in HostileError"):
        pool("processes").submit(HostileError).result()
    assert before <= pids_of_children()


def pids_of_children():
    """Those of the pool that all tests share."""
    children = PROCESSES._running.children
    until(lambda: all(child._process is not None for child in list(children)))
    return {child._process.pid for child in children}


def raise_no_error():
    raise NoError


def test_l31_a_child_that_exits(scope):
    """L31: the error has its exit code; the next job has a new child."""
    with pytest.raises(WorkerDiedError, match=r"_exit .* exit code 3") as caught:
        pool("processes").submit(os._exit, 3).result()
    error = caught.value
    assert (error.pool, error.exitcode) == ("processes", 3)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pool("processes").submit(same, 1).result() == 1


def test_a_child_that_is_killed(scope):
    """The code is the signal's."""
    job = pool("processes").submit(die)
    assert job.exception().exitcode == -signal.SIGKILL
    assert pool("processes").submit(same, 1).result() == 1


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_that_dies_while_it_has_nothing_to_do(scope):
    """The next job does not notice."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        other = pool("one").submit(os.getpid).result()
        assert other != pid
        assert pool("one").submit(os.getpid).result() == other
    until(lambda: not is_alive(other))  # nobody knows the pool any more


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid):
    """Whether it is there, and no zombie that init has not seen yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ignore_term():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return os.getpid()


PROGRAM = """
import os, signal, sys, time
from tests.test_pools import ignore_term
from wsgi_defer import deferring, pool
from wsgi_defer.pools import ProcessPool, ThreadPool

if __name__ == "__main__":
    pools = {"cpu": ProcessPool(1), "threads": ThreadPool(1)}
    with deferring(pools=pools):
        pool("threads").submit(time.sleep, 30)
        print(pool("cpu").submit(ignore_term).result(), flush=True)
        if sys.argv[1] == "killed":
            job = pool("cpu").submit(time.sleep, 300)
            while not job.running():
                time.sleep(0.01)
            time.sleep(0.2)  # until the child has it; if not, it ends all the same
            os.kill(os.getpid(), signal.SIGKILL)
"""


def run_program(tmp_path, program, *args):
    """Run that file, with nothing but this package beside it."""
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    # No pipe, which its children would hold open.
    with (tmp_path / "output").open("w+") as output:
        status = subprocess.run(
            [sys.executable, "-W", "error", str(tmp_path / "program.py"), *args],
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")},
            stdout=output, stderr=output, timeout=PATIENCE, check=False,
        )  # fmt: skip
        output.seek(0)
        return status.returncode, output.read()


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("how", ["ends", "killed"])
def test_children_end_with_the_process(tmp_path, how, kernel):
    """Also when they ignore TERM; nobody waits for a thread, and no file is left."""
    if not kernel:  # that it sees to that
        (tmp_path / "ctypes.py").write_text("raise ImportError")
    status, output = run_program(tmp_path, PROGRAM, how)
    ended = time.monotonic()
    assert status == (0 if how == "ends" else -signal.SIGKILL)
    pid = int(output)
    until(lambda: not is_running(pid))
    assert time.monotonic() - ended < 2
    assert list((tmp_path / "tmp").iterdir()) == []


FORKS = """
import os, sys
from wsgi_defer import deferring, pool
from wsgi_defer.pools import ProcessPool

class Result:
    def __init__(self):
        self.pid = os.getpid()

if __name__ == "__main__":
    with deferring(pools={"cpu": ProcessPool(1, max_wait=15)}):
        first = pool("cpu").submit(Result).result()
        assert type(first) is Result
        pid = os.fork()
        if not pid:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert pool("cpu").submit(os.getpid).result() == first.pid
"""


def test_a_forked_child_that_exits_leaves_the_children_alone(tmp_path):
    """It runs all that is to be run at exit; functions may be those of the program."""
    assert run_program(tmp_path, FORKS) == (0, "")


@pytest.mark.parametrize(
    ("executable", "why"),
    [
        ("/nonexistent/python", "FileNotFoundError: "),
        (shutil.which("false"), "/false' ended with exit code 1"),
    ],
)
def test_a_child_that_does_not_come_up(executable, why):
    """The job fails with the reason, and the next one tries again."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        multiprocessing.set_executable(executable)
        try:
            job = pool("one").submit(same, 1)
            with pytest.raises(PoolStartError, match=why) as caught:
                job.result()
        finally:
            multiprocessing.set_executable(sys.executable)
        assert caught.value.pool == "one"
        assert "set_executable" in str(caught.value)
        assert pool("one").submit(same, 1).result() == 1


def test_a_payload_lives_no_longer_than_its_job(scope, tmp_path):
    """However that ends."""
    note = tmp_path / "pid"
    done = pool("processes").submit(len, bytes(1_000_000))
    assert done.result() == 1_000_000
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        runs = pool("one").submit(note_and_sleep, note)
        waits = pool("one").submit(same, 1)
        until(note.exists)
        assert (runs.payload, waits.payload != b"") == (b"", True)
        assert waits.cancel()
    assert (done.payload, runs.payload, waits.payload) == (b"", b"", b"")


def test_large_calls_and_results(scope):
    """They take several pieces in either direction."""
    data = os.urandom(3_000_000)
    assert pool("processes").submit(same, data).result() == data


def note_and_wait(path, seconds):
    path.write_text(str(os.getpid()))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.parametrize("number", _process_child.SIGNALS)
def test_a_signal_to_all_processes(scope, tmp_path, number):
    """As systemd sends it, or a terminal: the worker decides when its children end."""
    note = tmp_path / "pid"
    job = pool("processes").submit(note_and_wait, note, 0.5)
    until(lambda: note.exists() and note.read_text())
    os.kill(int(note.read_text()), number)
    assert job.result() == int(note.read_text())


def test_a_signal_to_a_child_that_has_just_been_started(monkeypatch):
    """It is held back until the child can deal with it, and in the child only."""
    from wsgi_defer import _process_handle

    popen, held_back = subprocess.Popen, []

    def start(*args, **options):
        held_back.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        process = popen(*args, **options)
        process.send_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(_process_handle.subprocess, "Popen", start)
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        blocked = pool("one").submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert blocked.result() == set()
        again = pool("one").submit(time.sleep, 0.1)
        again.add_done_callback(  # in the thread that has started it
            lambda _: held_back.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        )
        until(lambda: len(held_back) == 2)
    assert held_back == [set(_process_child.SIGNALS), set()]


def terminate_a_command():
    with subprocess.Popen(["sleep", str(LONG)]) as command:
        command.terminate()
        return command.wait(PATIENCE)


def test_commands_of_a_job_get_their_signals(scope):
    """They inherit neither a mask nor that a signal is ignored."""
    assert pool("processes").submit(terminate_a_command).result() == -signal.SIGTERM


def leave_a_process(note):
    pid = os.fork()
    if not pid:
        time.sleep(LONG)
        os._exit(0)
    note.write_text(str(pid))
    os._exit(3)


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_dies_and_leaves_a_process(tmp_path, monkeypatch, pidfd):
    """That holds the connection, which therefore does not end."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    note = tmp_path / "pid"
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        job = pool("one").submit(leave_a_process, note)
        assert job.exception().exitcode == 3
        os.kill(int(note.read_text()), signal.SIGKILL)
        assert pool("one").submit(same, 1).result() == 1


def leave_a_process_and_go_on(note):
    pid = os.fork()
    if not pid:
        time.sleep(LONG)
        os._exit(0)
    note.write_text(str(pid))
    return os.getpid()


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_with_nothing_to_do_dies_and_leaves_a_process(
    tmp_path, monkeypatch, pidfd
):
    """The next job does not notice, either."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    note = tmp_path / "pid"
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(leave_a_process_and_go_on, note).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert pool("one").submit(os.getpid).result() != pid
        os.kill(int(note.read_text()), signal.SIGKILL)


def fork_and_return():
    pid = os.fork()
    if not pid:
        time.sleep(0.3)  # until the child has its next job
    return pid


def test_a_job_that_forks_has_one_answer():
    """That of the child, and not that of the process that it has forked."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        assert pool("one").submit(fork_and_return).result() > 0
        assert pool("one").submit(where_it_runs, 0.6).result() > 0


def inheritable_files():
    names = map(int, os.listdir("/proc/self/fd"))
    return [fd for fd in names if fd > 2 and is_open(fd) and os.get_inheritable(fd)]


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_commands_of_a_job_inherit_nothing(scope):
    """The connection is the child's alone."""
    assert pool("processes").submit(inheritable_files).result() == []


def test_a_cancel_that_comes_late_ends_no_other_job(scope, monkeypatch):
    """The child of that job is given no other one, as it is about to be killed."""
    ask, kill, cancelled, killing = Child.ask, Child.kill, [], []

    def answer_and_cancel(child, data):
        answer = ask(child, data)
        if not cancelled:
            cancelled.append(job.cancel())
        return answer

    def kill_slowly(child):
        child.doomed = True
        killing.append(threading.Timer(0.3, kill, [child]))
        killing[-1].start()

    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(os.getpid).result()
        with monkeypatch.context() as patched:
            patched.setattr(Child, "ask", answer_and_cancel)
            patched.setattr(Child, "kill", kill_slowly)
            job = pool("one").submit(same, 1)
            until(lambda: cancelled)
            assert pool("one").submit(where_it_runs, 0.6).result() != pid
        for timer in killing:
            timer.join()
    assert cancelled == [True]


def where_it_runs(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_a_child_that_is_killed_and_awaited_at_the_same_time():
    """Whoever comes when it has ended hits no other process."""
    for _ in range(5):
        child = Child()
        child.start("a")
        killers = [threading.Thread(target=child.kill) for _ in range(5)]
        for killer in killers:
            killer.start()
        assert child.end() in (0, -signal.SIGKILL)  # the end of the connection ends it
        for killer in killers:
            killer.join()
        child.kill()
        assert child.end() is None


def test_a_child_that_is_killed_before_it_is_started():
    """It comes to nothing."""
    child = Child()
    child.kill()
    with pytest.raises(PoolStartError, match="exit code -9"):
        child.start("a")


def test_a_process_pool_in_a_forked_child(scope):
    """It has its own, and leaves that of its parent alone."""
    job = pool("processes").submit(where_it_runs, 1)
    running = PROCESSES._running
    until(lambda: job in running.serving and not job.payload)
    pool("processes").submit(same, 1).result()
    children = pids_of_children()
    held = list(running.children)
    with held_elsewhere(running.serving_lock, *(child._lock for child in held)):
        pid = os.fork()
    if not pid:
        status = 1
        signal.alarm(PATIENCE)
        with contextlib.suppress(BaseException):
            job.cancel()
            running.close()
            mine = pool("processes").submit(os.getpid).result(PATIENCE)
            status = 3 if mine not in children else 4
            if any(child._connection.fileno() != -1 for child in held):
                status = 5
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert job.result() in children
    assert pool("processes").submit(os.getpid).result() in children
    assert pids_of_children() == children


@contextlib.contextmanager
def held_elsewhere(*locks):
    """Another thread has them."""
    have, release = threading.Event(), threading.Event()

    def hold_them():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            have.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold_them)
    thread.start()
    assert have.wait(PATIENCE)
    yield
    release.set()
    if thread.is_alive():  # not in a process that was forked
        thread.join()


def test_a_forked_child_says_nothing_of_the_children():
    """Not even that it has left one behind."""
    child = Child()
    child.start("a")
    pid = os.fork()
    if not pid:
        sys.unraisablehook = lambda _: os._exit(5)
        child.forget()
        del child
        gc.collect()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert child.is_ready
    assert child.end() == 0


def test_a_fork_while_a_pool_is_made(monkeypatch):
    """By another thread: its child does not take the pool for its own."""
    from wsgi_defer import pools

    kind, status = ThreadPool(1), []

    class Forking(weakref.WeakSet):
        def add(self, item):
            pid = os.fork()
            if not pid:
                os._exit(3 if kind._running is None else 4)
            status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            super().add(item)

    monkeypatch.setattr(pools, "_opened", Forking())
    with deferring(pools={"one": kind}):
        assert pool("one").submit(same, 1).result() == 1
    assert status == [3]


@pytest.mark.parametrize("done", [True, False])
def test_a_job_that_ends_as_its_child_is_asked(scope, monkeypatch, done):
    """No child is asked to run what the job has let go of, or is about to."""
    pool("processes").submit(same, 1).result()
    running = PROCESSES._running
    monkeypatch.setattr(Child, "ask", lambda child, data: pytest.fail("asked"))
    job = Job(running, "processes", scope, os.getpid, (), {})
    if done:
        job.payload = b"of a job that is late"
        job.set_exception(LookupError())
    assert Place(running)._ask(job) is None
    assert not running.serving


def program_output(tmp_path, program):
    status, output = run_program(tmp_path, textwrap.dedent(program))
    assert status == 0, output
    return output.splitlines()


def test_what_a_job_prints(tmp_path, monkeypatch):
    """It is there when the job has ended, although its child is killed."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = """
        from wsgi_defer import deferring, pool
        from wsgi_defer.pools import ProcessPool
        if __name__ == "__main__":
            with deferring(pools={"one": ProcessPool(1)}):
                pool("one").submit(print, "printed").result()
        """
    assert program_output(tmp_path, program) == ["printed"]


def spoil_output():
    sys.stdout = None


def test_output_that_is_not_there():
    """Whatever a job puts in its place, its answer comes."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        assert pool("one").submit(spoil_output).result() is None
        assert pool("one").submit(same, 1).result() == 1


def test_a_program_that_uses_a_pool_while_it_is_imported(tmp_path):
    """It is told so, and does not start one child after the other."""
    program = """
        from wsgi_defer import PoolStartError, deferring, pool
        from wsgi_defer.pools import ProcessPool
        def double(number):
            return 2 * number
        with deferring(pools={"one": ProcessPool(1, max_wait=5)}):
            job = pool("one").submit(double, 2)
            if __name__ != "__main__":
                job.result()
            print(type(job.exception()).__name__, job.exception())
        """
    (output,) = program_output(tmp_path, program)
    assert output.startswith("PoolStartError")
    assert "imports a module that uses the pool" in output


def test_a_main_module_is_loaded_only_if_it_is_needed(tmp_path):
    """Not for its name in a text; and no name of ours is taken for one of its own."""
    program = """
        from wsgi_defer import deferring, pool
        from wsgi_defer.pools import ProcessPool
        print("loaded as", __name__, flush=True)
        def serve(number):
            return 2 * number
        if __name__ == "__main__":
            with deferring(pools={"one": ProcessPool(1)}):
                print(pool("one").submit(len, "__main__").result(), flush=True)
                print(pool("one").submit(serve, 2).result(), flush=True)
        """
    assert program_output(tmp_path, program) == [
        "loaded as __main__", "8", "loaded as __mp_main__", "4",
    ]  # fmt: skip


def test_what_runs_in_a_child():
    """The loop of a child, here."""
    from wsgi_defer import _process_child

    def answer(fn, *args):
        data = _process_child._answer(pickle.dumps((fn, args, {})), {})
        return data[:1], pickle.loads(data[1:])

    assert answer(same, 1) == (b"R", 1)
    kind, (error, text) = answer(fail, LookupError(0))
    assert (kind, type(error), error.args) == (b"E", LookupError, (0,))
    assert "in fail" in text
    assert answer(raise_odd)[1][0].kind == "OddError"
    assert answer(raise_hostile)[1][0].text == "its text cannot be had"
    locked = _process_child._answer(pickle.dumps((threading.Lock, (), {})), {})
    assert locked == b"UTypeError in lock"


def test_max_wait_ends_a_child(tmp_path):
    """And a new one takes its place."""
    note = tmp_path / "pid"
    with deferring(pools={"one": ProcessPool(1, max_wait=3)}):
        pool("one").submit(same, 1).result()
        job = pool("one").submit(note_and_sleep, note)
        assert isinstance(job.exception(), PoolTimeoutError)
        pid = int(note.read_text())
        until(lambda: not is_alive(pid))
        assert pool("one").submit(same, 1).result() == 1


def note_and_sleep(path):
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(LONG)


def test_p7_cancel_ends_a_child(scope, tmp_path):
    """P7: a job that runs is cancelled with its process."""
    note = tmp_path / "pid"
    job = pool("processes").submit(note_and_sleep, note)
    until(note.exists)
    assert job.running()
    assert job.cancel()
    assert job.cancelled()
    pid = int(note.read_text())
    until(lambda: not is_alive(pid))
    assert pool("processes").submit(same, 1).result() == 1


def test_p9_a_job_in_a_process_ends_with_the_request(tmp_path):
    """P9: its child is ended."""
    note = tmp_path / "pid"
    with deferring(pools=POOLS):
        job = pool("processes").submit(note_and_sleep, note)
        until(note.exists)
    assert job.cancelled()
    pid = int(note.read_text())
    until(lambda: not is_alive(pid))


# Coroutines


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

    async def job(number):
        running.add(number)
        order.append(number)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(number)

    list(pool("coroutines").map(job, range(9)))
    assert max(most) == 3
    assert order == list(range(9))


def test_p7_cancellation_reaches_the_coroutine(scope, ran):
    """P7: it is told, and its place is free."""
    begun = []

    async def job():
        begun.append(1)
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise

    futures = [pool("coroutines").submit(job) for _ in range(4)]
    until(lambda: len(begun) == 3)
    assert futures[0].running()
    assert futures[3].cancel()  # it has not begun
    assert all(future.cancel() for future in futures[:3])
    assert pool("coroutines").submit(same_later, 1).result() == 1
    until(lambda: ran == ["cancelled"] * 3)


def test_p9_coroutines_end_with_the_request(ran):
    """P9: whatever they make of it."""
    begun, ended = threading.Event(), threading.Event()

    async def job():
        begun.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    with deferring(pools=POOLS):
        pool("coroutines").submit(job)
        assert begun.wait(PATIENCE)
    assert ended.wait(PATIENCE)


def test_max_wait_of_coroutines(ran):
    """The future fails, and the coroutine is cancelled."""
    ended = threading.Event()

    async def job():
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    with deferring(pools={"quick": AsyncPool(1, max_wait=0.1)}):
        assert isinstance(pool("quick").submit(job).exception(), PoolTimeoutError)
        assert ended.wait(PATIENCE)


def test_a_coroutine_that_cancels_itself(scope):
    """It is cancelled, then."""

    async def job():
        raise asyncio.CancelledError

    future = pool("coroutines").submit(job)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert future.cancelled()


def test_the_context_of_coroutines(scope):
    """As on threads."""

    async def job():
        return variable.get(), current_scope()

    token = variable.set("view")
    future = pool("coroutines").submit(job)
    variable.reset(token)
    assert future.result() == ("view", scope)


def test_what_is_no_coroutine_function(scope):
    """A clear error where it is submitted. Objects and partials may be some."""
    import functools

    class Job:
        async def __call__(self):
            return 1

    with pytest.raises(TypeError, match="sleep is no coroutine function"):
        pool("coroutines").submit(time.sleep, 1)
    assert pool("coroutines").submit(Job()).result() == 1
    assert pool("coroutines").submit(functools.partial(same_later, 2)).result() == 2
    with pytest.raises(TypeError, match="positional argument"):
        pool("coroutines").submit(same_later).result()
    assert pool("coroutines").submit(same_later, 1).result() == 1


# gather()


def test_l29_gather_keeps_the_keys(scope):
    """L29: of a dict; and it takes functions and futures."""
    assert gather({"b": lambda: 1, 3: pool("threads").submit(same, 2)}) == {
        "b": 1,
        3: 2,
    }
    assert list(gather({"z": int, "a": int})) == ["z", "a"]
    assert (gather([]), gather({})) == ([], {})


def test_l30_gather_keeps_the_order(scope):
    """L30: whatever finishes first."""
    third = threading.Event()

    def first():
        assert third.wait(PATIENCE)
        return 1

    def last():
        third.set()
        return 3

    assert gather([first, lambda: 2, last]) == [1, 2, 3]
    assert gather(iter([int, str])) == [0, ""]


def test_gather_of_one_that_fails(scope, released):
    """It is raised at once, and the rest is cancelled."""
    waiting = pool("coroutines").submit(asyncio.sleep, LONG)
    with pytest.raises(ValueError, match="boom"):
        gather([waiting, lambda: fail(ValueError("boom"))])
    assert waiting.cancelled()


def test_gather_of_all_outcomes(scope):
    """Results and exceptions, in their places."""
    cancelled = pool("coroutines").submit(asyncio.sleep, LONG)
    cancelled.cancel()
    calls = {"good": int, "bad": lambda: fail(LookupError(0)), "gone": cancelled}
    outcomes = gather(calls, return_exceptions=True)
    assert outcomes["good"] == 0
    assert (type(outcomes["bad"]), outcomes["bad"].args) == (LookupError, (0,))
    assert isinstance(outcomes["gone"], concurrent.futures.CancelledError)


def test_gather_with_a_timeout(scope):
    """The rest is cancelled, and the error names one of them."""
    waiting = pool("coroutines").submit(asyncio.sleep, LONG)
    with pytest.raises(PoolTimeoutError, match=r"sleep on .*'coroutines' .* 0\.05 s"):
        gather([int, waiting], timeout=0.05)
    assert waiting.cancelled()


def test_gather_of_all_outcomes_in_time(scope):
    """What is late is an outcome, too."""
    waiting = pool("coroutines").submit(asyncio.sleep, LONG)
    first, second = gather([int, waiting], timeout=0.3, return_exceptions=True)
    assert first == 0
    assert isinstance(second, PoolTimeoutError)
    assert waiting.cancelled()


def test_gather_has_the_time_of_the_default_pool(released):
    """If none is given."""
    with deferring(pools={"default": ThreadPool(2, max_wait=0.1), **POOLS}):
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
    future = concurrent.futures.Future()
    with pytest.raises(PoolTimeoutError, match="a future on"):
        gather([future], timeout=0)
    done = concurrent.futures.Future()
    done.set_result(3)
    assert gather([done, done]) == [3, 3]


def test_map_raises_in_its_turn(scope):
    """And cancels what comes after it."""
    results = pool("threads").map(lambda n: 1 / n, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    futures = pool("coroutines").map(asyncio.sleep, [0, LONG, LONG, LONG, LONG])
    next(futures)
    futures.close()
    assert not scope._guests
    with pytest.raises(TypeError, match="no coroutine function"):
        pool("coroutines").map(int, "1")
    with pytest.raises(ZeroDivisionError):  # of what it iterates over
        pool("coroutines").map(asyncio.sleep, (1 / n + LONG for n in (1, 0)))
    assert not scope._guests
