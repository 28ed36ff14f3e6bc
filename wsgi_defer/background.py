"""The one daemon thread per process, for calls that would hold somebody up inline.

It is started by the first scope that it is given, and a child process starts its own.
Scopes are drained one after the other, oldest first. When the process exits in an
orderly way, what waits is finished first, for at most ``EXIT_WAIT`` seconds, or for as
long as a server that is known leaves it; what is then left is lost, and named. A
scope that comes after that is drained by whoever hands it over.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from . import _host
from ._drain import drain, report_lost
from ._outcome import Outcome
from ._per_process import PerProcess
from ._scope import Scope

logger = logging.getLogger("wsgi_defer")

EXIT_WAIT = 20.0  # seconds; gunicorn kills a worker 30 s (graceful_timeout) after TERM
BEAT = 0.2  # seconds between two signs of life while the process waits for its end
MAX_WAITING = 1000  # scopes

# A scope to drain, its outcome, and what returns when that may begin.
Job = tuple[Scope, Outcome, Callable[[], object]]


class _Background:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        # Released when something waits. The thread does not wait for the condition: the
        # collector of garbage may hand a scope over at any line of the thread itself,
        # after its look and before its wait as well.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._running: Scope | None = None
        self._thread: threading.Thread | None = None
        self._over = False

    def submit(self, job: Job, limited: bool) -> bool:
        if sys.is_finalizing():
            # Threads are frozen now, and one that is started hangs (up to 3.11).
            return False
        with self._changed:
            if self._over or (limited and len(self._waiting) >= MAX_WAITING):
                return False
            self._waiting.append(job)
            with suppress(RuntimeError):  # it is released already
                self._wake.release()
        # Not with the lock held: gevent's start() lets the other greenlet run.
        return self._thread is not None or self._start(job)

    def _start(self, job: Job) -> bool:
        """Start the thread. False if it cannot be, and the job is not taken."""
        thread = threading.Thread(target=self._work, name="wsgi_defer", daemon=True)
        with self._changed:
            if self._thread is not None:  # by another one, or by the collector, since
                return True
            self._thread = thread
        atexit.unregister(self.finish)  # of a start that has failed
        atexit.register(self.finish)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            with self._changed:
                self._thread = None
                self._waiting.remove(job)
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
            scope, outcome, ready = self._waiting.popleft()
            self._running = scope
        try:
            _wait_for(ready)
            drain(scope, outcome)
        except BaseException:
            logger.exception("the background thread failed; it goes on")
        finally:
            del scope, outcome, ready  # before those who join() hear of the end
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def finish(self) -> None:
        """Let what waits come to its end, while there is time; the rest is lost."""
        if self._over:  # not once more, when there are several who call this
            return
        try:
            deadline = time.monotonic() + _time_to_finish()
            while not self._is_over(BEAT) and time.monotonic() < deadline:
                _host.current.beat()
        finally:  # gunicorn's timeout may end the waiting, too
            with self._changed:
                self._over = True
                left = self._unfinished()
            # Other threads may hold the process up, so that the one that runs ends
            # after all; and if it does not, who records it names it.
            for scope in left:
                report_lost(
                    scope, "the process exits", running=not _host.current.recorded
                )

    def _is_over(self, timeout: float) -> bool:
        """Wait until there is nothing to do, and then take nothing more, which the
        process might not wait for."""
        with self._changed:
            self._over = self._changed.wait_for(self._has_nothing, timeout)
            return self._over

    def _unfinished(self) -> list[Scope]:
        running = [] if self._running is None else [self._running]
        waiting = running + [scope for scope, _, _ in self._waiting]
        return [scope for scope in waiting if not scope.closed]

    def forget(self) -> None:
        """In a child process: its parent is to run all this."""
        atexit.unregister(self.finish)
        for scope in self._unfinished():
            scope.closed = True


def _wait_for(ready: Callable[[], object]) -> None:
    try:
        ready()
    except Exception:  # a reason not to wait, but none to lose the calls
        logger.exception("waiting for the end of the response failed")


def _time_to_finish() -> float:
    left = _host.current.time_left()
    return EXIT_WAIT if left is None else left


_background = PerProcess(_Background, forget=_Background.forget)


def submit(
    scope: Scope, outcome: Outcome, ready: Callable[[], object], *, limited: bool = True
) -> None:
    """Drain the scope on the background thread, once ``ready()`` has returned.

    Where the thread cannot take it (``MAX_WAITING`` scopes wait already, and it is
    ``limited``, or the interpreter is shutting down), it is drained here and now.
    """
    if not _background().submit((scope, outcome, ready), limited):
        drain(scope, outcome)


def drain_here(scope: Scope, outcome: Outcome) -> None:
    """Drain the scope in this thread. If its options say that it gives way, the rest
    goes to the background thread as soon as a client waits for this one."""
    if not drain(scope, outcome, give_way=scope.options.gives_way):
        submit(scope, outcome, nothing_to_wait_for)


def finish() -> None:
    """Let what waits come to its end, at the end of the process; what does not is
    lost."""
    if _background.made is not None:
        _background.made.finish()


def nothing_to_wait_for() -> None:
    """The ``ready()`` of a response that is out."""


def join(timeout: float | None = None) -> bool:
    """Wait until the thread has nothing to do; False after ``timeout`` seconds, and at
    once in a call that runs on the thread itself."""
    return _background().join(timeout)
