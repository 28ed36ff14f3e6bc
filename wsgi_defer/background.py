"""The daemon threads of each process, for calls that would hold up a client inline.

There is one, or as many as ``background_threads=`` says; a child process starts its
own. A thread is started for a scope that finds none free. Scopes are taken oldest
first, and the calls of one scope run one after the other. When the process exits in an
orderly way, what waits is finished first, for at most ``EXIT_WAIT`` seconds, or for as
long as a server that is known allows. What is left then is lost, and named. A scope
that comes after that is drained in the thread that hands it over.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections import deque
from collections.abc import Callable

from ._calls.drain import drain, report_lost
from ._calls.options import MAX_WAITING
from ._calls.outcome import Outcome
from ._calls.scope import Scope
from ._runtime import host, report
from ._runtime.clock import monotonic
from ._runtime.per_process import PerProcess
from ._runtime.threads import start

EXIT_WAIT = 20.0  # seconds; gunicorn kills a worker 30 s (graceful_timeout) after TERM
BEAT = 0.2  # seconds between two signs of life while the process waits for its end

# A scope to drain, its outcome, and what returns when that may start.
Drain = tuple[Scope, Outcome, Callable[[], object]]


class _Background:
    def __init__(self) -> None:
        import queue  # 2 ms, where nothing runs here

        # Taken by itself where nobody waits: in C, without the frames of a condition.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._awaiting = 0  # threads that wait for the condition
        self._waiting: deque[tuple[Drain, int]] = deque()  # with their numbers of calls
        self._calls = 0  # that wait, in all
        # A token for each that waits. The threads do not wait for the condition: the
        # garbage collector may hand over a scope at any line of a thread itself, even
        # between its look and its wait.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running: list[Scope] = []
        self._threads: set[threading.Thread] = set()
        self._over = False
        self._deadline: float | None = None  # by which all must have ended

    def submit(self, handed: Drain, limited: bool) -> bool:
        scope = handed[0]
        with self._lock:
            if self._over or (limited and self._calls >= MAX_WAITING):
                return False
            waiting = handed, len(scope.deferred)
            self._waiting.append(waiting)
            self._calls += waiting[1]
            most = scope.options.background_threads
            needs_thread = self._needs_thread(most)
        self._tokens.put(None)
        # Not with the lock held: gevent's start() lets the other greenlet run.
        return not needs_thread or self._start(waiting, most)

    def _start(self, waiting: tuple[Drain, int], most: int) -> bool:
        """Start a thread. False if none is there at all; the drain is not taken."""
        thread = threading.Thread(target=self._work, name="wsgi_defer", daemon=True)
        with self._lock:
            if not self._needs_thread(most):  # the collector was first
                return True
            first = not self._threads
            self._threads.add(thread)
        if first:
            from ._runtime import exits  # it imports what few processes need

            exits.before_exit(self.settle)
            atexit.unregister(self.finish)  # of a start that has failed
            atexit.register(self.finish)
        try:
            start(thread)
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            with self._lock:
                self._threads.discard(thread)
                if self._threads or waiting not in self._waiting:
                    return True
                self._waiting.remove(waiting)
                self._calls -= waiting[1]
                self._changed.notify_all()
            return False
        return True

    def _needs_thread(self, most: int) -> bool:
        """With the lock held: if none is free, and one more may be."""
        threads = len(self._threads)
        return threads < most and len(self._waiting) > threads - len(self._running)

    def join(self, timeout: float | None) -> bool:
        if threading.current_thread() in self._threads:
            return False  # it would wait for itself
        with self._lock:
            return self._wait(timeout)

    def _wait(self, timeout: float | None) -> bool:
        """With the lock held, until there is nothing to do. False after the timeout."""
        self._awaiting += 1
        try:
            return self._changed.wait_for(self._has_nothing, timeout)
        finally:
            self._awaiting -= 1

    def _has_nothing(self) -> bool:
        return not self._waiting and not self._running

    def _work(self) -> None:
        while True:
            self._tokens.get()
            self._drain_next()

    def _drain_next(self) -> None:
        with self._lock:
            if not self._waiting:  # it was taken back, as no thread could be started
                return
            (scope, outcome, ready), count = self._waiting.popleft()
            self._calls -= count
            self._running.append(scope)
        try:
            _wait_for(ready)
            drain(scope, outcome)
        except BaseException as error:
            report.failure(error, "a background thread failed; it keeps running")
        finally:
            with self._lock:
                self._running.remove(scope)
                del scope, outcome, ready  # before join() hears of the end
                if self._awaiting:
                    self._changed.notify_all()

    def settle(self) -> None:
        """The process is to exit: let what waits come to its end, while there is time.

        Other threads may go on for long, so this accepts more.
        """
        from ._runtime import exits

        if not exits.atexit_follows():
            self.finish()
            return
        deadline = monotonic() + _time_to_finish()
        while not (self._over or self.join(BEAT)):
            host.current.beat()
            if monotonic() >= deadline:
                self._deadline = deadline  # finish() does not wait once more
                return

    def finish(self) -> None:
        """Let what waits come to its end, while there is time; the rest is lost."""
        if self._over:  # several callers may do this
            return
        try:
            deadline = self._deadline or monotonic() + _time_to_finish()
            while not self._is_over(BEAT) and monotonic() < deadline:
                host.current.beat()
        finally:  # gunicorn's timeout may end the wait, too
            with self._lock:
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
        with self._lock:
            self._over = self._wait(timeout)
            return self._over

    def _unfinished(self) -> list[Scope]:
        waiting = self._running + [scope for (scope, _, _), _ in self._waiting]
        return [scope for scope in waiting if not scope.closed]

    def forget(self) -> None:
        """In a child process: the parent runs all this."""
        atexit.unregister(self.finish)
        if exits := sys.modules.get(f"{__package__}._runtime.exits"):
            exits.forget(self.settle)
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
    """Drain the scope on a background thread, once ``ready()`` has returned.

    If none can take it, it is drained here and now: because ``MAX_WAITING``
    calls wait already, and it is ``limited``, or because the interpreter shuts down.
    """
    # If it does, threads are frozen, and one that is started hangs (up to 3.11).
    if sys.is_finalizing() or not _background().submit(
        (scope, outcome, ready), limited
    ):
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
    """Wait until the threads have nothing to do. False after ``timeout`` seconds, and
    at once inside a call that runs on one of them."""
    return _background().join(timeout)
