"""Time limits of calls, as far as a call can be ended at all.

Only the main thread of a process can be interrupted, by a signal, and it runs no
handler while it is inside C code. On other threads nothing reliable exists, see
``_watch`` for what is said of them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from . import _host, _watch
from ._call import Call
from ._host import TimeUp
from ._scope import Scope
from .errors import TimeLimitError

AGAIN = 1.0  # seconds; for code that catches even BaseException and goes on


def run(call: Call, scope: Scope, limit: float | None) -> None:
    """Run a call that is watched, or limited to ``limit`` seconds, or both.

    Raises what the call raises, and ``TimeLimitError`` if the limit ended it.
    """
    watched = _watch.begin(call, scope, limit)
    try:
        if limit is None:
            call.run(scope.options.around)
        else:
            _run_within(limit, partial(call.run, scope.options.around))
    except TimeUp as up:
        if limit is None or monotonic() - watched.began < limit:
            raise  # the limit of a call around this one
        error = TimeLimitError(call.label, limit)
        raise error.with_traceback(up.__traceback__) from None
    finally:
        _watch.end(watched)


def _run_within(seconds: float, run: Callable[[], object]) -> None:
    if _host.current.call_within(seconds, run):
        return
    if threading.current_thread() is threading.main_thread() and _alarm_is_free():
        _Alarm().run(seconds, run)
    else:
        run()


def _alarm_is_free() -> bool:
    # None is a handler that was not installed by Python, as in an embedding server.
    handler = signal.getsignal(signal.SIGALRM)
    free = handler in (signal.SIG_DFL, signal.SIG_IGN)
    return free and signal.getitimer(signal.ITIMER_REAL)[0] == 0


class _Alarm:
    """SIGALRM's handler, while one call runs."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._before: Any = signal.SIG_DFL

    def __call__(self, number: int, frame: object) -> None:
        if self._until is None:  # the call has ended at the same moment
            return
        left = self._until - monotonic()
        if left > 0:  # the call has set an alarm of its own, without a handler
            signal.setitimer(signal.ITIMER_REAL, left, AGAIN)
            return
        raise TimeUp

    def run(self, seconds: float, run: Callable[[], object]) -> None:
        """Run it, and raise ``TimeUp`` inside it after so many seconds."""
        self._before = signal.signal(signal.SIGALRM, self)
        self._until = monotonic() + seconds
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
                run()
            finally:
                self._end()
        finally:  # once more, because the alarm may have come just before it
            self._end()

    def _end(self) -> None:
        self._until = None  # from here on, nothing is raised
        installed: Any = signal.getsignal(signal.SIGALRM)
        if installed is self:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
