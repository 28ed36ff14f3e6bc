"""What a child process that the app forks has of its parent, and what it has not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from wsgi_defer import Outcome, background, defer, deferring, pool
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.jobs import Jobs
from wsgi_defer.pools import ThreadPool, _opened

from ..helpers.pools import LONG, POOLS, hold, running_of, same
from ..helpers.programs import run
from ..helpers.waiting import PATIENCE, until
from ..unit.test_background import ready, scope_with

# They are about forks beside threads, of which Python 3.15 with -W error raises this.
pytestmark = pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")


def test_a_forked_child_exits_at_once():
    """It waits for nothing, runs nothing of its parent's, and reports nothing."""
    result = run("""
        import os, time, warnings
        from tests.unit.test_background import *
        started, go = threading.Event(), threading.Event()
        for name in ("a", "b"):
            background.submit(
                scope_with((started.set,), (go.wait, 60), (print, name)),
                Outcome(200), ready)
        assert started.wait(20)
        warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)
        pid = os.fork()
        if pid == 0:
            raise SystemExit(0)
        begin = time.monotonic()
        os.waitpid(pid, 0)
        assert time.monotonic() - begin < 15  # EXIT_WAIT is 20
        go.set()
        """)
    assert result.stdout.split() == ["a", "b"]
    assert result.stderr == ""


def test_a_forked_child_has_a_thread_of_its_own(ran):
    """It does not run what waits in its parent."""
    go, started = threading.Event(), threading.Event()
    background.submit(
        scope_with((started.set,), (go.wait, 60), (ran.append, "parent")),
        Outcome(200), ready,
    )  # fmt: skip
    assert started.wait(PATIENCE)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            background.submit(
                scope_with((os.write, writer, b"child")), Outcome(200), ready
            )
            background.join(PATIENCE)
        finally:
            os._exit(0 if ran == [] else 1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"child"
    assert os.waitpid(pid, 0)[1] == 0
    go.set()
    background.join()
    assert ran == ["parent"]


def test_a_dropped_scope_in_a_child_process(capfd):
    """A fork copies the calls; they are the parent's to run."""
    with deferring() as scope:
        defer(int)
        pid = os.fork()
        if pid == 0:
            scope.__del__()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert capfd.readouterr().err == ""


def test_a_child_process_runs_nothing_early():
    """Its calls are its parent's."""
    code = """
import os
from wsgi_defer import deferring, defer
with deferring():
    call = defer(print, "ran", flush=True)
    if os.fork() == 0:
        try:
            call.result(timeout=0)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    os.wait()
    call.result()
"""
    result = run(code, "ignore")
    assert result.stdout == "TimeoutError\nran\n"


def test_a_child_process_has_a_watch_of_its_own():
    """The thread does not come along with a fork."""
    code = """
        import os, threading
        from wsgi_defer import Observer, deferring, defer
        class Told(Observer):
            def slow(self, call, scope, seconds, stack):
                told.set()
        told = threading.Event()
        def work():
            told.clear()
            with deferring(slow_after=.1, observers=[Told()]):
                defer(told.wait, 20)
        work()
        if os.fork() == 0:
            work()
            os._exit(0)
        os.wait()
        """
    result = run(code, "ignore")
    assert result.stderr.count("threading.Event.wait is slow") == 2


def test_one_in_each_process():
    """It is made on first use; a child process forgets that, and makes its own."""
    pids, forgotten = [], []

    def make():
        pids.append(os.getpid())
        return object()

    one = PerProcess(make, forgotten.append)
    unused = PerProcess(make, forgotten.append)
    assert one.made is None
    first = one()
    assert one() is one.made is first
    pid = os.fork()
    if not pid:
        fine = forgotten == [first] and one() is not first
        os._exit(0 if fine and pids[1:] == [os.getpid()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one() is first
    assert (unused.made, forgotten) == (None, [])


def test_a_pool_is_made_once_per_process_and_on_first_use():
    """A child process that the app forks makes its own."""
    kind = ThreadPool(1)
    with deferring(pools={"one": kind}):
        assert running_of(kind) is None
        pool("one").submit(same, 1).result()
        made = running_of(kind)
        pid = os.fork()
        if not pid:
            status = 1
            with contextlib.suppress(BaseException):
                status = 3 if running_of(kind) is None else 4
                with deferring(pools={"one": kind}):
                    if pool("one").submit(same, 5).result(5) == 5:
                        status += 10
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13
        assert pool("one").submit(same, 1).result() == 1
        assert running_of(kind) is made


def test_a_child_process_does_not_end_tasks_of_its_parent(released):
    """It has copies of its scopes, as of all."""
    begun = threading.Event()
    with deferring(pools=POOLS) as scope:
        future = pool("threads").submit(hold, begun, released)
        assert begun.wait(PATIENCE)
        pid = os.fork()
        if not pid:
            scope.closed = True
            scope.abandon_guests()
            os._exit(3 if future.running() else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert future.running()


def test_a_fork_while_a_pool_is_made(monkeypatch):
    """By another thread: its child does not take the pool for its own."""
    kind, status = ThreadPool(1), []

    def fork():
        pid = os.fork()
        if not pid:
            os._exit(3 if running_of(kind) is None else 4)
        status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    class Forking(dict):
        def setdefault(self, key, made):
            fork()
            first = super().setdefault(key, made)
            fork()
            return first

    monkeypatch.setattr(_opened, "running", Forking())
    with deferring(pools={"one": kind}):
        assert pool("one").submit(same, 1).result() == 1
    assert status == [3, 3]


def in_child(function):
    """What it returns there, which is a small number."""
    pid = os.fork()
    if not pid:
        status = 99
        with contextlib.suppress(BaseException):
            status = function()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_job_in_a_child_makes_no_call_its_own(ran):
    """The calls of the parent are still the parent's to run."""
    pools = {"one": ThreadPool(1)}
    with deferring(pools=pools):
        call = defer(ran.append, 1)

        def child():
            with deferring(pools=pools):
                pool("one").submit(int).result(PATIENCE)
            with contextlib.suppress(FutureTimeout):
                call.result(0.01)
            return len(ran)

        assert in_child(child) == 0
    assert ran == [1]


def test_a_call_in_a_child_ends_no_task_of_the_parent(released):
    """Its own tasks end there, and those of the parent are left alone."""
    pools = {"one": ThreadPool(2)}
    with deferring(pools=pools) as scope:
        task = pool("one").submit(released.wait, LONG)
        until(task.running)

        def child():
            with deferring(pools=pools):
                defer(int)
                own = pool("one").submit(time.sleep, LONG)
            scope.closed = True
            scope.abandon_guests()
            return 10 * own.done() + task.done()

        assert in_child(child) == 10
        assert not task.done()


def test_a_pool_that_is_forgotten_in_a_child(released):
    """It is closed in the process that made it, and nowhere else."""
    with deferring(pools={"one": ThreadPool(1)}):
        task = pool("one").submit(released.wait, LONG)
        kind = pool("one")._kind
        runner = running_of(kind)
        until(task.running)
        _opened._close(id(kind), runner, os.getppid())  # of another process
        assert not runner.closed

        def child():
            _opened._close(id(kind), runner, os.getppid())
            return 10 * runner.closed + task.done()

        assert in_child(child) == 0


def test_a_forked_process_has_an_engine_of_its_own():
    """Connections must not cross a fork."""
    jobs = Jobs(None)
    before = jobs.engine
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, b"n" if jobs.engine is not before else b"s")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reads, 1) == b"n"
    os.close(reads)
    os.close(writes)


FORKING = """
import os, sys, wsgi_defer.jobs
jobs = wsgi_defer.jobs.Jobs(None)

@jobs.handler("forks")
def forks(end):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("forked")
    if end == "exit": sys.exit()
    if end == "exit 3": sys.exit(3)
    if end == "raise": raise OSError("of the child")
    return end

@jobs.handler("coroutine")
async def coroutine(end):
    return forks(end)

for end in ("return", "exit", "exit 3", "raise"):
    for name in ("forks", "coroutine"):
        print(name, end, jobs.run(name, f'"{end}"', "a", 1, last=True), flush=True)
"""


def test_what_a_handler_forks_ends_with_it():
    """It must not go on as a second worker, with the same job and connections."""
    out = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=30
    )
    assert [line for line in out.stdout.splitlines() if line != "forked"] == [
        f"{name} {end} {status}"
        for end, status in (("return", 0), ("exit", 0), ("exit 3", 3), ("raise", 1))
        for name in ("forks", "coroutine")
    ]
    assert out.stdout.count("forked\n") == 8
    assert out.stderr.count("OSError: of the child\n") == 2
    assert out.returncode == 0


LEAVES = {
    "returns": "pass",
    "raises": "raise ValueError",
    "exits": "sys.exit(3)",
}
FORK = """
import os, sys, time
from wsgi_defer import background, deferring, defer, before_response, pool
from wsgi_defer import DeferMiddleware
from wsgi_defer.pools import AsyncPool, ThreadPool
from tests.helpers.client import get
from tests.unit.test_background import Outcome, ready, scope_with

def fork():
    if os.fork() == 0:
        {leave}
        return
    print("child ended:", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)

async def fork_in_a_coroutine():
    fork()

def say(what):
    print(what, "in", "the parent" if os.getpid() == parent else "a child", flush=True)

def view(environ, start_response):
    defer(say, "deferred")
    fork()
    start_response("200 OK", [])
    return [b"served"]

parent = os.getpid()
{code}
say("end")
"""
PLACES = {
    "call": "with deferring():\n    defer(fork)\n    defer(say, 'deferred')",
    "early": "with deferring():\n    defer(fork).result()\n    defer(say, 'deferred')",
    "held": "with deferring():\n    before_response(fork)\n    defer(say, 'deferred')",
    "background": """
scope = scope_with((fork,), (say, "deferred"))
background.submit(scope, Outcome(200), ready)
background.join()
""",
    "thread pool": """
with deferring(pools={"default": ThreadPool(1)}):
    tasks = [pool().submit(fork), pool().submit(say, "deferred")]
    for task in tasks:
        task.result()
""",
    "coroutine pool": """
with deferring(pools={"default": AsyncPool(1)}):
    pool().submit(fork_in_a_coroutine).result()
    say("deferred")
""",
    "view": "get(DeferMiddleware(view))",
}


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("place", PLACES)
def test_a_fork_in_user_code_ends_with_that_code(place, leave):
    """It drains nothing, serves nothing, and runs no task."""
    result = run(FORK.format(leave=LEAVES[leave], code=PLACES[place]), "ignore")
    status = {"returns": 0, "raises": 1, "exits": 3}[leave]
    assert result.stdout.splitlines() == [
        f"child ended: {status}", "deferred in the parent", "end in the parent",
    ], result.stderr  # fmt: skip
    assert ("ValueError" in result.stderr) is (leave == "raises")


def test_a_fork_of_a_block_goes_on_without_its_calls():
    """It may leave the block: a program that becomes a daemon does so."""
    code = """
with deferring():
    defer(say, "deferred")
    child = os.fork() == 0
if child:
    os._exit(7)
print("child ended:", os.waitstatus_to_exitcode(os.wait()[1]))
"""
    result = run(FORK.format(leave="pass", code=code), "ignore")
    assert result.stdout.splitlines() == [
        "deferred in the parent", "child ended: 7", "end in the parent",
    ]  # fmt: skip


def test_a_fork_has_no_scope():
    """There, ``defer()`` says so, and ``enqueue()`` stores the job at once."""
    code = """
from wsgi_defer import NoScopeError
from wsgi_defer.jobs import Jobs
import multiprocessing, tempfile

def work():
    try:
        defer(say, "lost")
    except NoScopeError:
        print("no scope", flush=True)
    with jobs.captured() as stored:
        jobs.enqueue("mail", 1)
        print(len(stored), "stored at once", flush=True)

def start(environ, start_response):
    defer(say, "deferred")
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    start_response("200 OK", [])
    return [b""]

jobs = Jobs(None)
jobs.handler("mail")(print)
get(DeferMiddleware(start))
"""
    result = run(FORK.format(leave="pass", code=code), "ignore")
    assert result.stdout.splitlines() == [
        "no scope", "1 stored at once", "deferred in the parent", "end in the parent",
    ], result.stderr  # fmt: skip
