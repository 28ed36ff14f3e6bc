"""What is finished, and what is lost, when a process exits."""

from __future__ import annotations

import os
import re
import sys
from textwrap import dedent

import pytest

from ..helpers.programs import HOME, run


@pytest.mark.promise("S12", "N13")
def test_it_is_drained_when_the_process_exits():
    """What waits is finished before the interpreter goes."""
    result = run("""
        import time
        from tests.unit.test_background import *
        for _ in range(3):
            background.submit(scope_with((time.sleep, .1), (print, "ran")),
                              Outcome(200), ready)
        """)
    assert result.stdout.split() == ["ran"] * 3


USES_EXECUTORS = """
    import concurrent.futures
    from tests.unit.test_background import *

    def executes():
        threading.Event().wait(.2)
        with concurrent.futures.ThreadPoolExecutor() as executor:
            print(executor.submit(str, "executed").result(), flush=True)

    def hand_over():
        background.submit(scope_with((executes,)), Outcome(200), ready)
"""


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="these Pythons start no thread once the main one has ended (gh-113964)",
)
def test_calls_use_executors_at_exit():
    """As boto3 does for transfers."""
    result = run(f"""
        {USES_EXECUTORS}
    hand_over()
        """)
    assert (result.stdout, result.stderr) == ("executed\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("parent", [False, True])
def test_a_child_of_multiprocessing(tmp_path, monkeypatch, method, parent):
    """It has no atexit. Its calls run, and not those of its parent once more."""
    (tmp_path / "its.py").write_text(dedent(USES_EXECUTORS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HOME, str(tmp_path)]))
    result = run(
        f"""
        import multiprocessing
        import its
        if __name__ == "__main__":
            if {parent}:
                its.hand_over()
            context = multiprocessing.get_context({method!r})
            process = context.Process(target=its.hand_over)
            process.start()
            process.join()
            print("joined", flush=True)
        """,
        "ignore",
    )
    assert result.stderr == ""
    lines = sorted(result.stdout.split())
    assert lines == ["executed"] * (1 + parent) + ["joined"]
    assert parent or result.stdout == "executed\njoined\n"


def test_what_is_lost_in_a_child_of_multiprocessing(tmp_path, monkeypatch):
    """It is named there."""
    (tmp_path / "its.py").write_text(dedent(USES_EXECUTORS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HOME, str(tmp_path)]))
    result = run(
        """
        import multiprocessing
        import its
        def slow():
            its.background.EXIT_WAIT = .2
            its.background.submit(
                its.scope_with((its.threading.Event().wait, 60)), its.Outcome(200),
                its.ready)
            its.hand_over()
        process = multiprocessing.get_context("fork").Process(target=slow)
        process.start()
        process.join()
        """,
        "ignore",
    )
    assert "Event.wait lost while it ran" in result.stderr
    assert "its.executes lost: the process exits" in result.stderr


def test_other_threads_may_go_on_for_long():
    """A server in a thread that is not a daemon, when the main thread has ended."""
    result = run("""
        from tests.unit.test_background import *

        def serve():
            threading.main_thread().join()
            threading.Event().wait(.5)
            background.submit(scope_with(
                (lambda: print(threading.current_thread().name),)), Outcome(200), ready)

        background.submit(scope_with((int,)), Outcome(200), ready)
        threading.Thread(target=serve).start()
        """)
    assert result.stdout == "wsgi_defer\n"


@pytest.mark.promise("S12", "S13")
def test_what_is_too_slow_at_exit_is_named():
    """After EXIT_WAIT, the process goes, and the log says what was lost."""
    result = run("""
        import time
        from tests.unit.test_background import *
        background.EXIT_WAIT = .2
        started = threading.Event()
        def slow():
            started.set()
            time.sleep(60)
        for number in range(2):
            background.submit(
                scope_with((int,), (slow,), (print, "ran")), Outcome(200), ready)
        assert started.wait(20)
        """)
    assert result.stdout == ""
    first, *others = [
        line for line in result.stderr.splitlines() if line.startswith("deferred")
    ]
    assert re.match(r"deferred call __main__.slow lost while it ran \(\d+\.", first)
    assert [line.partition(": the process exits")[0] for line in others] == [
        "deferred call builtins.print lost",
        "deferred call builtins.int lost",
        "deferred call __main__.slow lost",
        "deferred call builtins.print lost",
    ]


def test_a_body_that_is_left_at_exit():
    """The interpreter drops it when no thread can be started; the process ends."""
    result = run("""
        from tests.helpers.client import make_environ, text_app
        from wsgi_defer import DeferMiddleware, defer
        app = DeferMiddleware(text_app(lambda: defer(print, "ran")))
        body = app(make_environ(), lambda status, headers: None)
        """)
    assert result.stdout == "ran\n"


@pytest.mark.parametrize("first", ["pools", "background"])
def test_deferred_calls_may_use_pools_at_exit(first):
    """The background thread finishes what it has, and then the pools close."""
    result = run(f"""
        import asyncio, threading, time
        from wsgi_defer import Outcome, background, defer, deferring, gather, pool
        from wsgi_defer.pools import AsyncPool, ThreadPool
        from tests.unit.test_background import enter, leave, ready, Scope
        from wsgi_defer._calls.options import Options

        def call():
            time.sleep(.3)
            print(pool().submit(int, 7).result(),
                  pool("io").submit(asyncio.sleep, 0, 8).result(), flush=True)

        def use():
            pool().submit(int).result()  # a thread; at exit, 3.12+ starts none
            pool("io").submit(asyncio.sleep, 0).result()

        options = Options(pools={{"default": ThreadPool(1), "io": AsyncPool(1)}})
        scope = Scope(options.checked())
        token = enter(scope)
        if {first == "pools"}:
            use()
        background.submit(Scope(), Outcome(200), ready)
        background.join()
        if {first == "background"}:
            use()
        defer(call)
        leave(token)
        background.submit(scope, Outcome(200), ready)
        """)
    assert result.stdout == "7 8\n"
    assert result.stderr == ""


def test_what_coroutines_have_left_on_the_loop_ends():
    """Their tasks are cancelled, and their generators closed; after the last call."""
    result = run("""
        import asyncio
        from wsgi_defer import deferring
        from tests.unit.test_background import *

        async def forever():
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled", flush=True)

        async def numbers():
            try:
                yield 1
            finally:
                print("closed", flush=True)

        async def call():
            kept.append(asyncio.ensure_future(forever()))
            kept.append(numbers())
            await kept[1].__anext__()
            await asyncio.sleep(0)

        async def late():
            await asyncio.sleep(.1)
            print("late", flush=True)

        kept = []
        background.submit(scope_with((int,)), Outcome(200), ready)
        with deferring():
            defer(call)
        print("called", flush=True)
        background.submit(scope_with((threading.Event().wait, .1), (late,)),
                          Outcome(200), ready)
        """)
    assert result.stderr == ""
    assert result.stdout.split() == ["called", "late", "cancelled", "closed"]


def test_a_closed_pool_says_so_at_once():
    """Who comes after that is told, and does not wait."""
    result = run("""
        import atexit
        from wsgi_defer import PoolClosedError, deferring, pool
        def late():
            with deferring():
                try:
                    pool().submit(int)
                except PoolClosedError as error:
                    print(error)
        atexit.register(late)
        with deferring():
            pool().submit(int).result()
        """)
    assert result.stdout.startswith("the pool 'default' takes no more tasks")


def test_a_background_that_gave_up_is_waited_for_once():
    """Two hooks at exit do not take twice as long."""
    result = run("""
        import time
        from tests.unit.test_background import *
        from wsgi_defer import deferring, pool
        waits = []
        background._time_to_finish = lambda: waits.append(1) or .5
        with deferring():
            pool().submit(int).result()
        background.submit(scope_with((time.sleep, 60)), Outcome(200), ready)
        with deferring():
            pool().submit(int).result()
        import atexit
        atexit._run_exitfuncs()
        assert waits == [1]
        """)
    assert "time.sleep lost" in result.stderr
