"""What watches a job with a time limit, raises an exception in it, and gives it up.

Nothing is raised in this module: ``interruptible`` leaves it alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from .._calls.interruptible import blocker, prepare, wake
from .._runtime import events, report, threads
from .._runtime.stop_orders import TimeUp
from .errors import JobTimeLimitError

# Seconds that a handler has to end after the exception was raised in it. Then it hangs,
# or is inside C code, or goes on in spite of it.
GRACE = 5.0
SOON = 0.01  # seconds to the next look at a handler that must be left alone for now
HUNG = os.EX_TEMPFAIL  # the status of a process that ends because of a handler


class JobTimeUp(TimeUp):
    """Is raised in a handler, which should not catch it."""


class Watch:
    """A thread that strikes, and later ends the process, unless it is ended before."""

    def __init__(
        self,
        seconds: float,
        error: JobTimeLimitError,
        give_up: Callable[[JobTimeLimitError], None] | None,
    ) -> None:
        self.error = error
        self._seconds = seconds
        self._give_up = give_up
        self._target = threading.get_ident()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.has_struck = False
        self._giving_up = False
        self._wakes = False  # whether the handler of SIGALRM is from here
        self._thread = threading.Thread(
            target=self._run, name="time-limit", daemon=True
        )

    def start(self) -> None:
        prepare()
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            # So that our signal interrupts what it waits for.
            self._wakes = True
            signal.signal(signal.SIGALRM, wake)
        threads.start(self._thread)

    def end(self) -> None:
        """From here on, nothing is raised any more.

        Does not return if the failure is being stored: the job must not succeed, too.
        """
        with self._lock:
            self._ended.set()
            if self._wakes and signal.getsignal(signal.SIGALRM) is wake:
                # A signal that was just sent would end the process if it came later.
                # It comes at the end of a system call at the latest: of this one.
                signal.getitimer(signal.ITIMER_REAL)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if self.has_struck:
            _raise_here()
        while self._giving_up and self._thread.is_alive():  # it ends the process
            with suppress(BaseException):  # an order to stop, as is done anyway
                self._thread.join()

    def _run(self) -> None:
        # Python 3.11 runs no function that is traced, as for coverage, as long as an
        # exception is still to be raised in any thread.
        sys.settrace(None)
        if self._ended.wait(self._seconds):
            return
        for _ in range(int(GRACE / SOON)):
            if self._strike() or self._ended.wait(SOON):
                break
        if self._ended.wait(GRACE) or self._give_up is None:
            return
        with self._lock:
            self._giving_up = not self._ended.is_set()
        if self._giving_up:
            self._end_process(self._give_up)

    def _end_process(self, give_up: Callable[[JobTimeLimitError], None]) -> None:
        report.log(
            events.JOB_HANGS, "%s Its handler does not end, so this process ends",
            self.error, facts={"error": type(self.error).__name__},
        )  # fmt: skip
        try:
            give_up(self.error)
        except Exception as error:
            report.failure(
                events.JOB_NOT_STORED, error,
                "the job is started again, as its failure was not stored", facts={},
            )  # fmt: skip
        finally:
            logging.shutdown()
            os._exit(HUNG)

    def _strike(self) -> bool:
        """Raise the exception, unless the handler must be left alone for now."""
        with self._lock:
            frame = sys._current_frames().get(self._target)
            if self._ended.is_set() or frame is None or blocker(frame) is not None:
                return False
            self.has_struck = True
            main = threading.main_thread().ident
            wakes = self._target == main and signal.getsignal(signal.SIGALRM) is wake
            _raise(self._target)
            if wakes:
                signal.pthread_kill(self._target, signal.SIGALRM)
        return True


def _raise(thread: int) -> None:
    """Raise the exception in that thread, in place of what is still to be raised."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(JobTimeUp)
    )


def _raise_here() -> None:
    """Raise it now, so that it is not raised later.

    Python has a way to take it back, but up to 3.12 still looks for it at each step
    then, and 3.11 never runs a traced function again.
    """
    with suppress(JobTimeUp):
        _raise(threading.get_ident())
