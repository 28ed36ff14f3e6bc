"""Tasks on threads."""

from __future__ import annotations

import gc
import threading

import pytest

from wsgi_defer import current_scope, defer, deferring, pool
from wsgi_defer._runtime import host
from wsgi_defer.pools import ThreadPool

from ...helpers.pools import (
    LONG,
    POOLS,
    check_that_it_keeps_nothing,
    fail,
    hold,
    running_of,
    same,
    same_later,
    variable,
)
from ...helpers.waiting import PATIENCE, until


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
    """That of the submit line, and each task has a copy of its own."""

    def task():
        before = variable.get()
        variable.set("task")
        return before, current_scope()

    token = variable.set("view")
    futures = [pool("threads").submit(task) for _ in range(3)]
    variable.reset(token)
    assert [future.result() for future in futures] == [("view", scope)] * 3


def test_tasks_may_submit_and_defer(ran):
    """They are inside the request."""
    with deferring(pools=POOLS):

        def task():
            defer(ran.append, 1)
            return pool("threads").submit(same, 2).result()

        assert pool("threads").submit(task).result() == 2
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
        assert running_of(kind)._threads <= 2
        barrier = threading.Barrier(3)
        tasks = [pool("three").submit(barrier.wait, PATIENCE) for _ in range(9)]
        assert sorted(task.result() for task in tasks) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert running_of(kind)._threads == 3
        thread = pool("three").submit(threading.current_thread).result()
        assert thread.daemon


def test_abandoned_tasks_do_not_starve_the_pool(released, caplog):
    """Each thread is replaced, up to the size of the pool; then the log says so."""
    kind = ThreadPool(2)
    begun = []

    def task():
        begun.append(1)
        released.wait(LONG)

    for number in range(1, 4):
        with deferring(pools={"two": kind}):
            tasks = [pool("two").submit(task) for _ in range(2 if number < 3 else 1)]
            if number < 3:
                until(lambda number=number: len(begun) == 2 * number)
            del tasks
    assert "the pool 'two' has abandoned 2 tasks that still run" in caplog.text
    released.set()
    until(lambda: not running_of(kind)._abandoned)
    with deferring(pools={"two": kind}):
        barrier = threading.Barrier(2)
        tasks = [pool("two").submit(barrier.wait, PATIENCE) for _ in range(2)]
        assert sorted(task.result() for task in tasks) == [0, 1]
    assert running_of(kind)._load == 0


@pytest.mark.parametrize("how", ["cancelled", "late", "request over"])
def test_a_pool_that_hangs_keeps_nothing(how, tmp_path):
    """Tasks that have not begun leave it when nobody wants them any more."""
    check_that_it_keeps_nothing(ThreadPool(1, max_wait=PATIENCE), how, tmp_path / "go")


def test_a_token_without_a_task(released):
    """It is harmless; and so is a task that goes when a thread has its token."""
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert pool("one").submit(same, 1).result() == 1
        running_of(kind)._tokens.put(None)
        assert pool("one").submit(same, 2).result() == 2
        first = pool("one").submit(hold, threading.Event(), released)
        until(first.running)
        second = pool("one").submit(same, 3)
        running_of(kind)._tokens.get_nowait()
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
        raise host.TimeUp

    kind = ThreadPool(1)
    with deferring(pools={"one": kind}) as scope:
        monkeypatch.setattr(threading.Thread, "start", strike)
        with pytest.raises(host.TimeUp):
            pool("one").submit(same, 1)
        monkeypatch.undo()
        assert scope.guests == {}
        assert pool("one").submit(same, 2).result(PATIENCE) == 2
        until(lambda: (running_of(kind)._load, running_of(kind)._threads) == (0, 1))
        running_of(kind)._work()  # a thread that begins although its place is taken
        running_of(kind)._start_thread()  # and one that is not needed any more
        assert (running_of(kind)._threads, running_of(kind)._starting) == (1, set())


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
        assert scope.guests == {}
        monkeypatch.undo()
        assert pool("two").submit(same, 1).result() == 1
