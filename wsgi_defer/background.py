"""The one daemon thread per process, for calls that would hold up a client inline.

The first scope that it is given starts it, and a child process starts its own. Scopes
are drained one after the other, oldest first. When the process exits in an orderly way,
what waits is finished first, for at most ``EXIT_WAIT`` seconds, or for as long as a
server that is known allows. What is left then is lost, and named. A scope that comes
after that is drained in the thread that hands it over.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ._calls.drain import drain, report_lost
from ._calls.options import MAX_WAITING
from ._calls.outcome import Outcome
from ._calls.scope import Scope
from ._runtime import host, report
from ._runtime.per_process import PerProcess
from ._runtime.threads import start

EXIT_WAIT = 20.0  # seconds; gunicorn kills a worker 30 s (graceful_timeout) after TERM
BEAT = 0.2  # seconds between two signs of life while the process waits for its end

# A scope to drain, its outcome, and what returns when that may start.
Drain = tuple[Scope, Outcome, Callable[[], object]]


class _Background:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Drain, int]] = deque()  # with their numbers of calls
        self._calls = 0  # that wait, in all
        # Released when something waits. The thread does not wait for the condition: the
        # garbage collector may hand over a scope at any line of the thread itself, even
        # between its look and its wait.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._running: Scope | None = None
        self._thread: threading.Thread | None = None
        self._over = False

    def submit(self, handed: Drain, limited: bool) -> bool:
        if sys.is_finalizing():
            # Threads are frozen now, and one that is started hangs (up to 3.11).
            return False
        with self._changed:
            if self._over or (limited and self._calls >= MAX_WAITING):
                return False
            waiting = handed, len(handed[0].deferred)
            self._waiting.append(waiting)
            self._calls += waiting[1]
            with suppress(RuntimeError):  # it is released already
                self._wake.release()
        # Not with the lock held: gevent's start() lets the other greenlet run.
        return self._thread is not None or self._start(waiting)

    def _start(self, waiting: tuple[Drain, int]) -> bool:
        """Start the thread. False if that fails; the drain is then not taken."""
        thread = threading.Thread(target=self._work, name="wsgi_defer", daemon=True)
        with self._changed:
            if self._thread is not None:  # another thread, or the collector, was first
                return True
            self._thread = thread
        atexit.unregister(self.finish)  # of a start that has failed
        atexit.register(self.finish)
        try:
            start(thread)
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            with self._changed:
                self._thread = None
                self._waiting.remove(waiting)
                self._calls -= waiting[1]
                self._changed.notify_all()
            return False
        return True

    def join(self, timeout: float | None) -> bool:
        if threading.current_thread() is self._thread:
            return False  # it would wait for itself
        with self._changed:
            return self._changed.wait_for(self._has_nothing, timeout)

    def _has_nothing(self) -> bool:
        return not self._waiting and self._running is None

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            while self._waiting:
                self._drain_next()

    def _drain_next(self) -> None:
        with self._changed:
            (scope, outcome, ready), count = self._waiting.popleft()
            self._calls -= count
            self._running = scope
        try:
            _wait_for(ready)
            drain(scope, outcome)
        except BaseException as error:
            report.failure(error, "the background thread failed; it keeps running")
        finally:
            del scope, outcome, ready  # before join() hears of the end
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def finish(self) -> None:
        """Let what waits come to its end, while there is time; the rest is lost."""
        if self._over:  # several callers may do this
            return
        try:
            deadline = time.monotonic() + _time_to_finish()
            while not self._is_over(BEAT) and time.monotonic() < deadline:
                host.current.beat()
        finally:  # gunicorn's timeout may end the wait, too
            with self._changed:
                self._over = True
                left = self._unfinished()
            # Other threads may keep the process alive until the running call ends after
            # all. If it does not, and is recorded, the master names it.
            for scope in left:
                report_lost(
                    scope, "the process exits", running=not host.current.recorded
                )

    def _is_over(self, timeout: float) -> bool:
        """Wait until there is nothing to do, and then accept nothing more: the process
        might not wait for it."""
        with self._changed:
            self._over = self._changed.wait_for(self._has_nothing, timeout)
            return self._over

    def _unfinished(self) -> list[Scope]:
        running = [] if self._running is None else [self._running]
        waiting = running + [scope for (scope, _, _), _ in self._waiting]
        return [scope for scope in waiting if not scope.closed]

    def forget(self) -> None:
        """In a child process: the parent runs all this."""
        atexit.unregister(self.finish)
        for scope in self._unfinished():
            scope.shut()


def _wait_for(ready: Callable[[], object]) -> None:
    try:
        ready()
    except Exception as error:  # a reason not to wait, but not to lose the calls
        report.failure(error, "waiting for the end of the response failed")


def _time_to_finish() -> float:
    left = host.current.time_left()
    return EXIT_WAIT if left is None else left


_background = PerProcess(_Background, forget=_Background.forget)


def submit(
    scope: Scope, outcome: Outcome, ready: Callable[[], object], *, limited: bool = True
) -> None:
    """Drain the scope on the background thread, once ``ready()`` has returned.

    If the thread cannot take it, it is drained here and now: because ``MAX_WAITING``
    calls wait already, and it is ``limited``, or because the interpreter shuts down.
    """
    if not _background().submit((scope, outcome, ready), limited):
        drain(scope, outcome)


def drain_here(scope: Scope, outcome: Outcome) -> None:
    """Drain the scope in this thread. With ``when_busy="thread"``, the rest goes to the
    background thread as soon as a client waits for this process."""
    if not drain(scope, outcome, scope.options.when_busy):
        submit(scope, outcome, nothing_to_wait_for)


def finish() -> None:
    """At the end of the process: let what waits come to its end; the rest is lost."""
    if _background.made is not None:
        _background.made.finish()


def nothing_to_wait_for() -> None:
    """The ``ready()`` of a response that is out."""


def join(timeout: float | None = None) -> bool:
    """Wait until the thread has nothing to do. False after ``timeout`` seconds, and at
    once inside a call that runs on the thread itself."""
    return _background().join(timeout)
