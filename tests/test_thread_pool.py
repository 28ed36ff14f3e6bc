"""Jobs on threads."""

from __future__ import annotations

import gc
import threading

import pytest

from wsgi_defer import _host, current_scope, defer, deferring, pool
from wsgi_defer.pools import ThreadPool

from .pools import (
    LONG,
    POOLS,
    check_that_it_keeps_nothing,
    fail,
    hold,
    same,
    same_later,
    variable,
)
from .waiting import PATIENCE, until


def test_the_original_exception(scope):
    """From a thread it is the same object."""
    error = ValueError("boom")
    assert pool("threads").submit(fail, error).exception() is error


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises(scope, released, caplog, error):
    """It is logged, and the pool goes on."""
    future = pool("threads").submit(released.wait, LONG)
    future.add_done_callback(lambda future: fail(error("in a callback")))
    released.set()
    assert future.result() is True
    until(lambda: "in a callback" in caplog.text)
    assert list(pool("threads").map(same, range(9))) == list(range(9))


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
def test_a_pool_that_hangs_keeps_nothing(how, tmp_path):
    """Jobs that have not begun leave it when nobody wants them any more."""
    check_that_it_keeps_nothing(ThreadPool(1, max_wait=PATIENCE), how, tmp_path / "go")


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
