"""One task of a pool: its end, its name, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from wsgi_defer import PoolTimeoutError, Scope, deferring, pool
from wsgi_defer._runtime import host
from wsgi_defer._runtime.loop import Loop
from wsgi_defer.pools import AsyncPool, ThreadPool
from wsgi_defer.pools._task import Task

from ...helpers.orders import handle_abort
from ...helpers.pools import impatient, running_of
from ...helpers.waiting import PATIENCE, until

LONG = 30
POOLS = {"threads": ThreadPool(4, max_wait=LONG), "io": AsyncPool(3, max_wait=LONG)}


# Callbacks


@pytest.fixture
def asked(monkeypatch):
    """No task is late before this is set, however slow the machine is."""
    asked, expire = threading.Event(), Task.expire

    def expire_then(task):
        asked.wait(PATIENCE)
        expire(task)

    monkeypatch.setattr(Task, "expire", expire_then)
    return asked


def test_a_slow_callback_of_one_that_was_late(released, asked):
    """It runs in a thread of its own, so that others end in time."""
    pools = {"quick": ThreadPool(3, max_wait=0.01)}
    with deferring(pools=pools):
        first, second = (pool("quick").submit(released.wait, LONG) for _ in range(2))
        names = []
        first.add_done_callback(
            lambda _: (
                names.append(threading.current_thread().name) or released.wait(LONG)
            )
        )
        asked.set()
        until(second.done)
        until(lambda: names == ["wsgi_defer-callbacks"])
        assert not released.is_set()
        assert isinstance(second.exception(), PoolTimeoutError)


def test_no_thread_for_a_callback(released, asked, monkeypatch, ran):
    """It runs all the same."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "wsgi_defer-callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with deferring(pools={"quick": ThreadPool(1, max_wait=0.01)}):
        late = pool("quick").submit(released.wait, LONG)
        late.add_done_callback(lambda _: ran.append(threading.current_thread().name))
        asked.set()
        until(lambda: ran == ["wsgi_defer-deadlines"])


@pytest.mark.parametrize("name", ["threads", "io"])
def test_a_callback_that_exits(released, caplog, name):
    """It is logged, and nothing leaves the end of the request; the rest ends, too."""

    def leave(task):
        raise SystemExit("in a callback")

    with deferring(pools=POOLS) as scope:
        tasks = [pool(name).submit(*work) for work in [long_work(name, released)] * 3]
        for task in tasks:
            task.add_done_callback(leave)
        until(lambda: all(task.running() for task in tasks))
    assert all(task.done() for task in tasks)
    assert scope.guests == {}
    assert caplog.text.count("a callback of the task") == 3
    with deferring(pools=POOLS):
        fine = [pool(name).submit(*short_work(name)) for _ in range(3)]
        assert [task.result(PATIENCE) for task in fine] == [7, 7, 7]


def long_work(name, released):
    return (released.wait, LONG) if name == "threads" else (asyncio.sleep, LONG)


def short_work(name):
    return (int, 7) if name == "threads" else (asyncio.sleep, 0, 7)


def test_an_order_to_stop_in_a_callback():
    """It leaves the end of the request, when all tasks have ended."""
    request = deferring(pools=POOLS)
    request.__enter__()
    tasks = [pool("io").submit(asyncio.sleep, LONG) for _ in range(2)]
    tasks[1].add_done_callback(handle_abort)
    with pytest.raises(SystemExit):
        request.__exit__(None, None, None)
    assert all(task.done() for task in tasks)


def test_a_thread_that_cannot_be_replaced(released, monkeypatch, caplog):
    """The log says so, and the other tasks of the request end."""
    kind = ThreadPool(1)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with deferring(pools={"one": kind, **POOLS}):
        other = pool("io").submit(asyncio.sleep, LONG)
        with deferring(pools={"one": kind}):
            running = pool("one").submit(released.wait, LONG)
            until(running.running)
            waiting = running_of(kind).submit("one", Scope(), int, (), {})
            monkeypatch.setattr(threading.Thread, "start", refuse)
        monkeypatch.undo()
        assert isinstance(running.exception(), CancelledError)
        assert "could not be ended" in caplog.text
        assert not other.done()
        waiting.cancel()


def test_a_second_thread_that_cannot_be_started(scope, released, monkeypatch):
    """The pool goes on with the one that it has."""
    kind = ThreadPool(2)
    with deferring(pools={"two": kind}):
        first = pool("two").submit(released.wait, LONG)
        until(first.running)

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        second = pool("two").submit(int, 7)
        monkeypatch.undo()
        released.set()
        assert second.result(PATIENCE) == 7
        assert running_of(kind)._threads == 1


def test_a_task_that_is_over_is_not_abandoned(scope):
    """Though somebody may come to stop it just when its function has returned."""
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        task = pool("one").submit(int)
        task.result()
        running_of(kind).stop(task)
        assert (running_of(kind)._threads, running_of(kind)._abandoned) == (1, 0)


def test_a_fault_of_ours(monkeypatch, caplog):
    """It is logged, and costs no thread."""
    kind = ThreadPool(1, max_wait=LONG)
    with deferring(pools={"one": kind}):
        pool("one").submit(int).result()
        with impatient(kind):
            monkeypatch.setattr(Task, "begin", lambda task: 1 / 0)
            assert isinstance(pool("one").submit(int).exception(), ZeroDivisionError)
            monkeypatch.undo()
        assert pool("one").submit(int, 7).result() == 7
    assert "ZeroDivisionError" in caplog.text


def test_a_loop_that_cannot_be_started(monkeypatch):
    """Who needs it next tries again, and there is one for all."""
    loop, called = Loop(), threading.Event()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        loop.call(called.set)
    monkeypatch.undo()
    loop.call(called.set)
    assert called.wait(PATIENCE)
    assert loop._start() is loop._start()


# Names


@pytest.mark.parametrize("how", ["returns", "raises", "cancelled", "late"])
def test_its_name_outlives_it(scope, released, how):
    """What its function was is said after the end, too."""
    if how == "returns":
        task = pool("threads").submit(int)
        assert (task.result(), task.label) == (0, "builtins.int")
    elif how == "raises":
        task = pool("threads").submit(int, "x")
        assert isinstance(task.exception(), ValueError)
        assert task.label == "builtins.int"
    elif how == "cancelled":
        task = pool("io").submit(asyncio.sleep, LONG)
        task.cancel()
        assert task.label == "asyncio.tasks.sleep"
    else:
        with deferring(pools={"quick": ThreadPool(1, max_wait=0.01)}):
            task = pool("quick").submit(released.wait, LONG)
            with pytest.raises(PoolTimeoutError, match=r"threading.Event.wait on"):
                task.result()
            assert task.label == "threading.Event.wait"


# Waiting, where the server has a time-out


class Server(host.Host):
    """It ends who waits for that long, and is asked by each thread."""

    def __init__(self, *patience):
        self.left = list(patience)

    def patience(self):
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_an_impatient_server(scope, monkeypatch, ask):
    """The caller has its error before that; the task goes on."""
    task = pool("io").submit(asyncio.sleep, LONG)
    monkeypatch.setattr(host, "current", Server(0.01, -0.1))
    for timeout in (None, PATIENCE):
        with pytest.raises(PoolTimeoutError, match="The server would") as caught:
            getattr(task, ask)(timeout)
        assert (caught.value.pool, caught.value.function) == ("io", task.label)
    with pytest.raises(PoolTimeoutError, match="max_wait too short"):
        getattr(task, ask)(0)  # which is the caller's own bound
    assert not task.done()


def test_a_server_that_becomes_patient(scope, monkeypatch):
    """As when a call with a time limit makes the heart beat, while it waits."""
    task = pool("io").submit(asyncio.sleep, 0.05, "fine")
    monkeypatch.setattr(host, "current", Server(0.01, 0.01, 0.01, 9))
    assert task.result() == "fine"
    monkeypatch.setattr(host, "current", Server(-1))
    assert task.result() == "fine"  # which needs no waiting
