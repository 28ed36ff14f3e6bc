"""Time limits of calls, as far as a call can be ended at all.

Only the main thread of a process can be interrupted, by a signal, and Python runs no
handler while that is inside C code. No reliable way exists on other threads; ``watch``
reports what happens there, and where ``interruptible`` says that a call must be left
alone for now.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from .._runtime import host
from .._runtime.clock import monotonic
from .._runtime.stop_orders import TimeUp
from ..errors import TimeLimitError
from .call import Call
from .interruptible import blocker, prepare, wake
from .invoke import Invocation, invoke
from .options import Owner
from .watch import start_watching, stop_watching

# Seconds. An odd number, by which our timer is recognized when somebody has replaced
# its handler.
AGAIN = 1.000017
SOON = 0.005  # seconds to the next look at a call that must be left alone for now
LONGEST = 1e6  # seconds that a timer can surely take


def run_watched(
    invocation: Invocation, call: Call, owner: Owner, limit: float | None
) -> object:
    """Run a call that is watched, or limited to ``limit`` seconds, or both.

    Raises and returns what it does, and raises ``TimeLimitError`` if the limit ended
    it.
    """
    if limit == math.inf:
        limit = None
    up = TimeUp()
    watched = start_watching(call, owner, limit)
    around = owner.options.around
    try:
        if limit is None:
            return invoke(invocation, around)
        grace = owner.options.time_limit_grace
        return _run_within(limit, grace, up, partial(invoke, invocation, around))
    except TimeUp as caught:
        if caught is not up:
            raise  # the limit of a call around this one
        raise _as_error(call, limit, up) from None
    finally:
        stop_watching(watched)
        del call, watched  # frame cycle


def _as_error(call: Call, limit: float | None, up: TimeUp) -> TimeLimitError:
    error = TimeLimitError(call.label, limit or 0).with_traceback(up.__traceback__)
    up.__traceback__ = None  # frame cycle
    return error


def _run_within(
    seconds: float, grace: float, up: TimeUp, run: Callable[[], object]
) -> object:
    values: list[object] = []

    def run_and_keep() -> None:
        values.append(run())

    if host.current.call_within(seconds, up, run_and_keep):
        pass
    elif threading.current_thread() is threading.main_thread() and _alarm_is_free():
        _Alarm(up, grace).run(seconds, run_and_keep)
    else:
        run_and_keep()
    return values[0]


def _alarm_is_free() -> bool:
    # None: a handler that Python did not install, as in an embedding server.
    handler = signal.getsignal(signal.SIGALRM)
    free = handler in (signal.SIG_DFL, signal.SIG_IGN, wake)
    return free and signal.getitimer(signal.ITIMER_REAL)[0] == 0


class _Alarm:
    """The handler of SIGALRM, while one call runs.

    It raises ``TimeUp`` inside the call at the limit; and then again after each grace,
    for code that catches even BaseException, or whose clean-up never ends. Where the
    call must be left alone, it looks again soon. It also traces the lines of the
    callers, to strike at the first one outside: in a loop, that line may be over before
    the next look.
    """

    def __init__(self, up: TimeUp, grace: float) -> None:
        self._up = up
        self._grace = grace
        self._until: float | None = None
        self._before: Any = signal.SIG_DFL
        self._traced: FrameType | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._until is None:  # the call ended at the same moment
            return
        left = self._until - monotonic()
        if left > 0:  # the call set an alarm of its own, without a handler
            self._arm(left)
            return
        blocked = None if frame is None else blocker(frame)
        if blocked is None:
            self._strike()
        else:
            self._strike_after(blocked)
            self._arm(SOON)

    def _strike(self) -> None:
        self._stop_tracing()
        patience = host.current.patience()
        grace = self._grace if patience is None else min(self._grace, patience)
        grace = max(grace, AGAIN)
        self._until = monotonic() + grace
        self._arm(grace)
        raise self._up

    def _strike_after(self, blocked: FrameType) -> None:
        caller = blocked.f_back
        if caller is not None and sys.gettrace() in (None, self._trace_none):
            self._trace(caller)  # otherwise somebody debugs, or measures coverage

    def _trace(self, frame: FrameType) -> None:
        self._stop_tracing()
        self._traced = frame
        frame.f_trace = self._trace_caller
        sys.settrace(self._trace_none)

    def _trace_none(self, frame: FrameType, event: str, argument: object) -> None:
        """For Python: do not trace what is called."""

    def _trace_caller(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "return":
            caller = frame.f_back
            self._stop_tracing()
            if caller is not None and self._until is not None:
                self._trace(caller)
        elif event == "line" and self._until is not None and blocker(frame) is None:
            self._strike()

    def _stop_tracing(self) -> None:
        if self._traced is not None:
            self._traced.f_trace = None
            self._traced = None  # frame cycle
            if sys.gettrace() == self._trace_none:
                sys.settrace(None)

    def run(self, seconds: float, run: Callable[[], object]) -> None:
        """Run it, and raise the ``TimeUp`` inside it after so many seconds."""
        prepare()
        self._before = signal.signal(signal.SIGALRM, self)
        if not self._is_installed():  # mod_wsgi, for one, ignores signal.signal()
            run()
            return
        self._until = monotonic() + seconds
        try:
            try:
                self._arm(seconds)
                run()
            finally:
                self._end()
        finally:  # once more, as the alarm may strike just before the first
            self._end()

    def _arm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(seconds, LONGEST), AGAIN)

    def _is_installed(self) -> bool:
        handler: Any = signal.getsignal(signal.SIGALRM)
        return handler is self

    def _end(self) -> None:
        self._until = None  # nothing is raised from here on
        self._stop_tracing()
        if abs(signal.getitimer(signal.ITIMER_REAL)[1] - AGAIN) < 1e-6:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._is_installed():
            signal.signal(signal.SIGALRM, self._before)
