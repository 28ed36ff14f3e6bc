"""The background thread, by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

from wsgi_defer import Outcome, Scope, background, defer
from wsgi_defer._per_process import PerProcess
from wsgi_defer._scope import enter, leave

from .orders import handle_abort


def scope_with(*calls):
    """A scope in which each call is deferred."""
    scope = Scope()
    token = enter(scope)
    for fn, *args in calls:
        defer(fn, *args)
    leave(token)
    return scope


def ready():
    pass


def test_oldest_first_on_one_daemon_thread(ran):
    """Scopes are drained in turn, on a thread that does not keep the process."""
    names = []

    def call(number):
        ran.append(number)
        names.append(
            (threading.current_thread().name, threading.current_thread().daemon)
        )

    for number in range(5):
        background.submit(scope_with((call, number)), Outcome(200), ready)
    assert background.join(10)
    assert ran == [0, 1, 2, 3, 4]
    assert set(names) == {("wsgi_defer", True)}


def test_join_gives_up(ran):
    """After its timeout, it says that there is still work."""
    go = threading.Event()
    background.submit(scope_with((go.wait, 10)), Outcome(200), ready)
    assert not background.join(0.01)
    go.set()
    assert background.join(10)


def test_when_it_is_full_the_caller_works(ran, monkeypatch):
    """Nothing is dropped: the caller drains the scope itself."""
    monkeypatch.setattr(background, "MAX_WAITING", 1)
    go, started = threading.Event(), threading.Event()
    background.submit(scope_with((started.set,), (go.wait, 10)), Outcome(200), ready)
    started.wait(10)
    background.submit(scope_with((ran.append, "waits")), Outcome(200), ready)
    background.submit(scope_with((ran.append, "inline")), Outcome(200), ready)
    assert ran == ["inline"]
    go.set()
    background.join()
    assert ran == ["inline", "waits"]


def test_it_survives_an_error_of_ours(ran, caplog):
    """A fault outside of the calls is logged, and the thread goes on."""

    def broken():
        raise LookupError

    background.submit(scope_with((ran.append, 1)), Outcome(200), broken)
    background.submit(scope_with((ran.append, 2)), Outcome(200), ready)
    background.join()
    assert ran == [1, 2]
    assert "LookupError" in caplog.text


def test_gunicorns_order_to_stop_does_not_end_it(ran, caplog):
    """The thread goes on; what the order cut off is named."""
    background.submit(scope_with((handle_abort,)), Outcome(200), ready)
    background.submit(scope_with((ran.append, 1)), Outcome(200), ready)
    background.join()
    assert ran == [1]
    assert "handle_abort lost while it ran" in caplog.text


def test_it_keeps_nothing_of_the_last_scope():
    """While it waits for the next one, the last one is gone."""
    scope = scope_with((int,))
    gone = weakref.ref(scope)
    background.submit(scope, Outcome(200), ready)
    del scope
    background.join()
    deadline = time.monotonic() + 5
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert gone() is None


def test_where_no_thread_can_be_started(ran, monkeypatch):
    """As the interpreter shuts down: the caller drains the scope itself."""
    made = PerProcess(background._Background)
    monkeypatch.setattr(background, "_background", made)

    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    background.submit(scope_with((ran.append, 1)), Outcome(200), ready)
    assert ran == [1]


def test_it_waits_until_it_is_ready(ran):
    """The calls begin when ready() has returned."""
    go = threading.Event()
    background.submit(scope_with((ran.append, 2)), Outcome(200), lambda: go.wait(10))
    ran.append(1)
    go.set()
    background.join()
    assert ran == [1, 2]


def run(code):
    """Run a program of its own; return what it printed."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip


def test_it_is_drained_when_the_process_exits():
    """What waits is finished before the interpreter goes."""
    result = run("""
        import time
        from tests.test_background import *
        for _ in range(3):
            background.submit(scope_with((time.sleep, .1), (print, "ran")),
                              Outcome(200), ready)
        """)
    assert result.stdout.split() == ["ran"] * 3


def test_what_is_too_slow_at_exit_is_named():
    """After EXIT_WAIT, the process goes, and the log says what was lost."""
    result = run("""
        import time
        from tests.test_background import *
        background.EXIT_WAIT = .2
        started = threading.Event()
        for number in range(2):
            background.submit(
                scope_with((started.set,), (time.sleep, 60), (print, "ran")),
                Outcome(200), ready)
        started.wait(10)
        time.sleep(.05)
        """)
    assert result.stdout == ""
    first, *others = [
        line for line in result.stderr.splitlines() if line.startswith("deferred")
    ]
    assert first.startswith("deferred call time.sleep lost while it ran (0.")
    assert [line.partition(": the process exits")[0] for line in others] == [
        "deferred call builtins.print lost",
        "deferred call threading.Event.set lost",
        "deferred call time.sleep lost",
        "deferred call builtins.print lost",
    ]


def test_a_body_that_is_left_at_exit():
    """The interpreter drops it when no thread can be started; the process ends."""
    result = run("""
        from tests.client import make_environ, text_app
        from wsgi_defer import DeferMiddleware, defer
        app = DeferMiddleware(text_app(lambda: defer(print, "ran")))
        body = app(make_environ(), lambda status, headers: None)
        """)
    assert result.stdout == "ran\n"


def test_join_on_the_thread_itself(ran):
    """A call that asks whether its own thread has ended gets an answer."""
    call = scope_with((lambda: ran.append(background.join()),))
    background.submit(call, Outcome(200), ready)
    background.join()
    assert ran == [False]


def test_a_forked_child_exits_at_once():
    """It waits for nothing, runs nothing of its parent's, and reports nothing."""
    result = run("""
        import os, time
        from tests.test_background import *
        started = threading.Event()
        for name, seconds in (("a", .8), ("b", 0)):
            background.submit(
                scope_with((started.set,), (time.sleep, seconds), (print, name)),
                Outcome(200), ready)
        started.wait(10)
        pid = os.fork()
        if pid == 0:
            raise SystemExit(0)
        begin = time.monotonic()
        os.waitpid(pid, 0)
        assert time.monotonic() - begin < .7
        """)
    assert result.stdout.split() == ["a", "b"]
    assert result.stderr == ""


def test_a_forked_child_has_a_thread_of_its_own(ran):
    """It does not run what waits in its parent."""
    go, started = threading.Event(), threading.Event()
    background.submit(
        scope_with((started.set,), (go.wait, 10), (ran.append, "parent")),
        Outcome(200), ready,
    )  # fmt: skip
    started.wait(10)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            background.submit(
                scope_with((os.write, writer, b"child")), Outcome(200), ready
            )
            background.join(5)
        finally:
            os._exit(0 if ran == [] else 1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"child"
    assert os.waitpid(pid, 0)[1] == 0
    go.set()
    background.join()
    assert ran == ["parent"]
