"""The worker classes without a server: their thread pool, and their lazy import."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from gunicorn.workers import gthread, sync

from wsgi_defer import DeferMiddleware, defer, gunicorn
from wsgi_defer.gunicorn._workers import DrainingThreadPool

from ...helpers.client import get, make_environ, text_app
from ...helpers.slots import handed_over
from ...helpers.waiting import until


@pytest.fixture
def pool():
    pool = DrainingThreadPool(max_workers=1)
    yield pool
    pool.shutdown()


def environ():
    return make_environ(
        **{"gunicorn.socket": None, "SERVER_PROTOCOL": "HTTP/1.1"}  # no socket to close
    )


def test_the_result_is_there_before_the_calls_run(pool, ran):
    """gunicorn gets its connection back, and the calls run in the same thread."""
    go = threading.Event()

    def view():
        defer(go.wait, 10)
        defer(lambda: ran.append(threading.current_thread().name))

    app = DeferMiddleware(text_app(view))
    future = pool.submit(get, app, environ=environ())
    assert future.result(10).body == b"hello"
    assert ran == []
    assert len(pool.draining) == 1
    go.set()
    assert pool.submit(int).result(10) == 0  # the one thread is free again
    assert ran[0].startswith("ThreadPoolExecutor")
    assert not pool.draining


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_request_is_quicker_than_submit(pool, ran, monkeypatch, interrupted):
    """The calls wait for the future, and run even if submit() is interrupted."""

    def submit(self, *args, **kwargs):
        future = submit_as_ever(self, *args, **kwargs)
        assert until(lambda: pool.draining)
        if interrupted:
            raise SystemExit
        return future

    submit_as_ever = ThreadPoolExecutor.submit
    app = DeferMiddleware(text_app(lambda: defer(ran.append, 1)))
    with monkeypatch.context() as patched:
        patched.setattr(ThreadPoolExecutor, "submit", submit)
        with pytest.raises(SystemExit) if interrupted else nullcontext():
            assert pool.submit(get, app, environ=environ()).result(10)
    assert pool.submit(int).result(10) == 0  # the one thread is free again
    assert ran == [1]
    assert not pool.draining


def test_errors_and_cancelling(pool, ran):
    """The future is like any other."""
    go = threading.Event()
    with pytest.raises(LookupError):
        pool.submit({}.__getitem__, 1).result(10)
    pool.submit(go.wait, 10)
    future = pool.submit(ran.append, 1)
    assert future.cancel()
    go.set()
    pool.submit(int).result(10)
    assert ran == []


def test_told_to_stop_while_it_closes_the_connection(ran, caplog, monkeypatch):
    """The calls that were handed over are named, and the order goes on."""

    def handle(self, listener, client, addr):
        get(DeferMiddleware(text_app(lambda: defer(ran.append, 1))), environ=environ())
        raise SystemExit

    monkeypatch.setattr(sync.SyncWorker, "handle", handle)
    worker = gunicorn.SyncWorker.__new__(gunicorn.SyncWorker)
    with pytest.raises(SystemExit):
        worker.handle(None, None, None)
    assert ran == []
    assert "list.append lost: the process was told to stop" in caplog.text


def test_jobs_that_are_dropped_are_named(ran, caplog):
    """The last net, below a worker that forgets what it was handed."""
    with handed_over():
        get(DeferMiddleware(text_app(lambda: defer(ran.append, 1))), environ=environ())
    gc.collect()
    assert ran == []
    assert "list.append lost: its scope was dropped" in caplog.text


def test_unknown_names():
    """The package has the names that it says."""
    with pytest.raises(AttributeError, match="TornadoWorker"):
        gunicorn.TornadoWorker  # noqa: B018
    assert issubclass(gunicorn.ThreadWorker, gthread.ThreadWorker)


def test_a_pool_that_is_shut_down_inside_submit():
    """By gunicorn's handler of a signal, which does not wait for the rest of it."""
    pool = DrainingThreadPool(max_workers=1)

    def interrupted():
        with pool._shutdown_lock:
            pool.shutdown(wait=False)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
