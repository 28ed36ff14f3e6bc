"""What a gunicorn worker knows of itself: its heart, its listeners, its end."""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, time
from typing import Any

from .._runtime import host, report
from .._runtime.stop_orders import TimeUp
from ..ledger import Recorder

BEAT = 0.05  # seconds; more often would not help: the master looks once a second
MARGIN = 0.5  # seconds before the master kills the worker, to name what is lost
NAMED = 3  # calls that run, named when the worker is told to stop
ANSWER = 1.0  # seconds before gunicorn's timeout, so that the view can still answer


class GunicornHost(host.Host):
    """The worker around this process, whatever its class."""

    why = "the worker was told to stop"
    recorder: Recorder | None = None  # if the master has a ledger

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self._grace = float(worker.cfg.graceful_timeout)
        self._margin = min(MARGIN, self._grace / 5)
        self._main = threading.get_ident()
        self._stopped_at: float | None = None
        self._next_beat = 0.0
        # Our own file descriptor: gunicorn closes its own before worker_exit, and after
        # that, Worker.notify() raises.
        self._heart = os.dup(worker.tmp.fileno())
        self.listeners = [listener.fileno() for listener in worker.sockets]
        self._note_the_order_to_stop()

    def _note_the_order_to_stop(self) -> None:
        # On TERM, gunicorn's handler sets alive = False, and the master kills the
        # worker graceful_timeout later. Only the handler knows when TERM came.
        theirs: Any = signal.getsignal(signal.SIGTERM)
        if not callable(theirs):
            return

        def note(number: int, frame: Any) -> None:
            first = self._stopped_at is None
            if first:
                self._stopped_at = monotonic()
                if self.recorder is not None:
                    self.recorder.stopping()
            theirs(number, frame)
            if first:
                self._tell_from_a_thread()

        signal.signal(signal.SIGTERM, note)
        signal.siginterrupt(signal.SIGTERM, False)  # as gunicorn has it

    def _tell_from_a_thread(self) -> None:
        # Not in here: what the signal has interrupted may hold the lock of the log, or
        # that of threading, which Thread.start() takes.
        try:
            _thread.start_new_thread(self.tell_what_is_left, ())
        except RuntimeError:  # too many threads
            if line := self._what_is_left():
                with suppress(OSError):  # nobody reads it
                    os.write(2, f"{line}\n".encode(errors="backslashreplace"))

    def tell_what_is_left(self) -> None:
        """Log how many calls have not ended, and which run; nothing if all have.

        Written at once: whoever sent TERM may not wait, and send KILL.
        """
        if line := self._what_is_left():
            log_of(self.worker).warning("%s", line)

    def _what_is_left(self) -> str:
        if self.recorder is None:
            return ""
        calls, unnamed = self.recorder.left()
        number = len(calls) + unnamed
        if not number:
            return ""
        running = [f"{each.name} (for {each.since:.1f} s)"
                   for each in calls if each.running]  # fmt: skip
        if len(running) > NAMED:
            running[NAMED:] = [f"{len(running) - NAMED} more"]
        seconds = self.time_left() or 0
        return (
            f"wsgi_defer: worker {self.worker.pid} was told to stop and has "
            f"{number} deferred call{'' if number == 1 else 's'} to finish in "
            f"{max(seconds, 0):.1f} s; running: {', '.join(running) or 'none'}"
        )

    @property
    def recorded(self) -> bool:
        return self.recorder is not None

    def beat(self, thread: int | None = None) -> None:
        now = monotonic()
        if now < self._next_beat or not self._is_heart(
            threading.get_ident() if thread is None else thread
        ):
            return
        self._next_beat = now + BEAT
        try:
            # As in gunicorn/workers/workertmp.py. Up to release 21, that reads the
            # change time, which this sets, too.
            os.utime(self._heart, (now, now))
        except OSError:  # the temporary file's disk; gunicorn will complain
            self._next_beat = now + 1

    def _is_heart(self, thread: int) -> bool:
        """Whether a sign of life from this thread counts for the whole worker.

        Only the main thread's does: another one may live while that is stuck.
        """
        return thread == self._main

    def _hangs_with(self, thread: int) -> bool:
        """Whether the heart stands still while this thread waits."""
        return thread == self._main

    def client_waiting(self) -> bool:
        poll = select.poll()  # its own: threads that share one would get an error
        for listener in self.listeners:
            poll.register(listener, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def time_left(self) -> float | None:
        if self.worker.alive:
            return None
        if self._stopped_at is None:  # max_requests, or INT: we are not told when
            self._stopped_at = monotonic()
        return self._stopped_at + self._grace - self._margin - monotonic()

    def patience(self) -> float | None:
        left = self.time_left()  # of all threads
        timeout = float(self.worker.cfg.timeout)
        # While another thread or a greenlet waits, the heart keeps beating.
        if timeout and self._hangs_with(threading.get_ident()):
            # The time since the last heartbeat, ours or gunicorn's. This reads the
            # change time, because up to release 21 gunicorn sets no other. It is wall
            # time: if the clock is set, this is wrong until the next beat, as
            # gunicorn's own check is.
            since = time() - os.fstat(self._heart).st_ctime
            stuck = timeout - min(ANSWER, timeout / 5) - since
            left = stuck if left is None else min(left, stuck)
        return left

    def note_timeout(self) -> None:
        """gunicorn's timeout is over, and ends what the main thread does."""
        self.why = f"gunicorn's timeout of {self.worker.cfg.timeout} s ended the worker"
        self._stopped_at = monotonic() - self._grace  # the master kills it in a second

    def close(self) -> None:
        """In a child process: close the heart, which is the worker's."""
        os.close(self._heart)


class GeventHost(GunicornHost):
    """A gevent worker: all of its greenlets run in one thread."""

    def _is_heart(self, thread: int) -> bool:
        return True  # if one greenlet runs, none hangs

    def _hangs_with(self, thread: int) -> bool:
        return False  # while one greenlet waits, the others run

    def call_within(
        self, seconds: float, up: TimeUp, run: Callable[[], object]
    ) -> bool:
        import gevent  # only in a process that has it, after it has patched everything

        with gevent.Timeout(seconds, up):
            run()
        return True


def host_for(worker: Any) -> GunicornHost:
    """The host for a worker of that class."""
    ggevent = sys.modules.get("gunicorn.workers.ggevent")
    if ggevent is not None and isinstance(worker, ggevent.GeventWorker):
        return GeventHost(worker)
    return GunicornHost(worker)


def time_for_calls() -> float:
    """Seconds that a stopping worker may still wait for its calls."""
    return host.current.time_left() or 0


def log_of(process: Any) -> Any:
    """The log of gunicorn's worker or master.

    If the app's logging configuration has disabled it, as ``dictConfig()`` does by
    default, our own: what it says of lost calls is said nowhere else.
    """
    log = process.log
    silenced = getattr(getattr(log, "error_log", None), "disabled", False)
    return report.logger if silenced else log
