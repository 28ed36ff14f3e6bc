"""The time limit of a job: an exception in its handler; then the end of the process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from .._calls.interruptible import blocker, prepare
from .._runtime import threads
from .._runtime.stop_orders import TimeUp
from .errors import JobTimeLimitError

logger = logging.getLogger("wsgi_defer")
R = TypeVar("R")

# Seconds that a handler has to end after the exception was raised in it. Then it hangs,
# or is inside C code, or goes on in spite of it.
GRACE = 5.0
SOON = 0.01  # seconds to the next look at a handler that must be left alone for now
HUNG = os.EX_TEMPFAIL  # the status of a process that ends because of a handler

# What the engine does before this process ends because of the job that runs here. None
# in processes that must not end, such as those that serve requests.
_give_up: ContextVar[Callable[[JobTimeLimitError], None] | None] = ContextVar(
    "give_up", default=None
)


class JobTimeUp(TimeUp):
    """Is raised in a handler, which should not catch it."""


@contextmanager
def ending(give_up: Callable[[JobTimeLimitError], None] | None) -> Iterator[None]:
    """Let this process end if the job that runs in the block cannot be ended.

    ``give_up`` is called before, by another thread, to store that the attempt has
    failed. With None, this process does not end.
    """
    token = _give_up.set(give_up)
    try:
        yield
    finally:
        _give_up.reset(token)


def run_within(seconds: float | None, name: str, run: Callable[[], R]) -> R:
    """Call that. Raises ``JobTimeLimitError`` if it takes longer than so many seconds.

    Where nothing can be raised, the process ends, if it is a worker.
    """
    if seconds is None:
        return run()
    watch = _Watch(seconds, JobTimeLimitError(name, seconds), _give_up.get())
    try:
        try:
            watch.start()
            return run()
        finally:
            watch.end()
    except JobTimeUp:
        watch.end()  # it may have struck there; it strikes only once
        raise watch.error from None


class _Watch:
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

    def start(self) -> None:
        prepare()
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            # So that our signal interrupts what it waits for.
            signal.signal(signal.SIGALRM, _wake)
        thread = threading.Thread(target=self._run, name="time-limit", daemon=True)
        threads.start(thread)

    def end(self) -> None:
        """From here on, nothing is raised any more."""
        with self._lock:
            self._ended.set()
            _raise(self._target, None)

    def _run(self) -> None:
        if self._ended.wait(self._seconds):
            return
        for _ in range(int(GRACE / SOON)):
            if self._strike() or self._ended.wait(SOON):
                break
        if self._ended.wait(GRACE) or self._give_up is None:
            return
        logger.error("%s Its handler does not end, so this process ends", self.error)
        try:
            self._give_up(self.error)
        except Exception:
            logger.exception("the job is started again, as its failure was not stored")
        finally:
            logging.shutdown()
            os._exit(HUNG)

    def _strike(self) -> bool:
        """Raise the exception, unless the handler must be left alone for now."""
        with self._lock:
            frame = sys._current_frames().get(self._target)
            if self._ended.is_set() or frame is None or blocker(frame) is not None:
                return False
            _raise(self._target, JobTimeUp)
        main = threading.main_thread().ident
        if self._target == main and signal.getsignal(signal.SIGALRM) is _wake:
            signal.pthread_kill(main, signal.SIGALRM)
        return True


def _wake(number: int, frame: object) -> None:
    """Where the exception is raised, if the main thread waits in a system call."""


def _raise(thread: int, error: type[BaseException] | None) -> None:
    """Raise that in another thread; with None, nothing any more."""
    given = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)
