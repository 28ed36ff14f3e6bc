"""Time limits of calls, as far as a call can be ended at all.

Only the main thread of a process can be interrupted, by a signal, and it runs no
handler while it is inside C code. On other threads nothing reliable exists, see
``_watch`` for what is said of them.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from . import _host, _watch
from ._call import Call, Job, run_job
from ._host import TimeUp
from ._scope import Scope
from .errors import TimeLimitError

# Seconds, for code that catches even BaseException and goes on. An odd number, by which
# our timer is known again when somebody has replaced its handler.
AGAIN = 1.000017
LONGEST = 1e6  # seconds that a timer can surely take


def run(job: Job, call: Call, scope: Scope, limit: float | None) -> object:
    """Run a call's job that is watched, or limited to ``limit`` seconds, or both.

    Raises and returns what it does, and raises ``TimeLimitError`` if the limit ended
    it.
    """
    if limit == math.inf:
        limit = None
    up = TimeUp()
    watched = _watch.begin(call, scope, limit)
    around = scope.options.around
    try:
        if limit is None:
            return run_job(job, around)
        return _run_within(limit, up, partial(run_job, job, around))
    except TimeUp as caught:
        if caught is not up:
            raise  # the limit of a call around this one
        raise _as_error(call, limit, up) from None
    finally:
        _watch.end(watched)
        del call, watched  # what it raised leads back to here


def _as_error(call: Call, limit: float | None, up: TimeUp) -> TimeLimitError:
    error = TimeLimitError(call.label, limit or 0).with_traceback(up.__traceback__)
    up.__traceback__ = None  # its frames hold it
    return error


def _run_within(seconds: float, up: TimeUp, run: Callable[[], object]) -> object:
    values: list[object] = []

    def run_and_keep() -> None:
        values.append(run())

    if _host.current.call_within(seconds, up, run_and_keep):
        pass
    elif threading.current_thread() is threading.main_thread() and _alarm_is_free():
        _Alarm(up).run(seconds, run_and_keep)
    else:
        run_and_keep()
    return values[0]


def _alarm_is_free() -> bool:
    # None is a handler that was not installed by Python, as in an embedding server.
    handler = signal.getsignal(signal.SIGALRM)
    free = handler in (signal.SIG_DFL, signal.SIG_IGN)
    return free and signal.getitimer(signal.ITIMER_REAL)[0] == 0


class _Alarm:
    """SIGALRM's handler, while one call runs."""

    def __init__(self, up: TimeUp) -> None:
        self._up = up
        self._until: float | None = None
        self._before: Any = signal.SIG_DFL

    def __call__(self, number: int, frame: object) -> None:
        if self._until is None:  # the call has ended at the same moment
            return
        left = self._until - monotonic()
        if left > 0:  # the call has set an alarm of its own, without a handler
            self._arm(left)
            return
        raise self._up

    def run(self, seconds: float, run: Callable[[], object]) -> None:
        """Run it, and raise the ``TimeUp`` inside it after so many seconds."""
        self._before = signal.signal(signal.SIGALRM, self)
        if not self._is_installed():  # mod_wsgi ignores signal.signal(), for one
            run()
            return
        self._until = monotonic() + seconds
        try:
            try:
                self._arm(seconds)
                run()
            finally:
                self._end()
        finally:  # once more, because the alarm may have come just before it
            self._end()

    def _arm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(seconds, LONGEST), AGAIN)

    def _is_installed(self) -> bool:
        handler: Any = signal.getsignal(signal.SIGALRM)
        return handler is self

    def _end(self) -> None:
        self._until = None  # from here on, nothing is raised
        if abs(signal.getitimer(signal.ITIMER_REAL)[1] - AGAIN) < 1e-6:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._is_installed():
            signal.signal(signal.SIGALRM, self._before)
