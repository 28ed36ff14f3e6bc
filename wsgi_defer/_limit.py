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
from ._call import Call
from ._host import TimeUp
from ._scope import Scope
from .errors import TimeLimitError

# Seconds, for code that catches even BaseException and goes on. An odd number, by which
# our timer is known again when somebody has replaced its handler.
AGAIN = 1.000017
LONGEST = 1e6  # seconds that a timer can surely take


def run(call: Call, scope: Scope, limit: float | None) -> None:
    """Run a call that is watched, or limited to ``limit`` seconds, or both.

    Raises what the call raises, and ``TimeLimitError`` if the limit ended it.
    """
    if limit == math.inf:
        limit = None
    up = TimeUp()
    watched = _watch.begin(call, scope, limit)
    try:
        if limit is None:
            call.run(scope.options.around)
        else:
            _run_within(limit, up, partial(call.run, scope.options.around))
    except TimeUp as caught:
        if caught is not up:
            raise  # the limit of a call around this one
        raise _as_error(call, limit, up) from None
    finally:
        _watch.end(watched)


def _as_error(call: Call, limit: float | None, up: TimeUp) -> TimeLimitError:
    error = TimeLimitError(call.label, limit or 0).with_traceback(up.__traceback__)
    up.__traceback__ = None  # its frames hold it
    return error


def _run_within(seconds: float, up: TimeUp, run: Callable[[], object]) -> None:
    if _host.current.call_within(seconds, up, run):
        return
    if threading.current_thread() is threading.main_thread() and _alarm_is_free():
        _Alarm(up).run(seconds, run)
    else:
        run()


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
