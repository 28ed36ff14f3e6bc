"""``strict()``: as in production, and no failure goes unnoticed."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

from .._calls.call import Call
from .._calls.drain import report_lost
from .._calls.scope import Scope
from .._calls.switch import Mode
from ..errors import DeferError
from ..observers._observers import observe_process, stop_observing
from ._block import WAIT, enter_block, leave_block
from ._failures import Failures, Found

UNCLOSED = "nobody closed its response"
TOO_LONG = f"it had not ended {WAIT:g} s after the test"


class Failure(NamedTuple):
    """A call that failed or was lost: its label, its line, why, and what it raised."""

    call: str
    origin: str
    why: str
    error: BaseException | None


class DeferredCallsFailed(DeferError, AssertionError):  # noqa: N818 - it is several
    """Deferred calls failed, were lost, or belong to a response that nobody closed.

    Carries ``failures``, a tuple. The first error among them is its cause.
    """

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__(failures)
        self.failures = failures

    def __str__(self) -> str:
        number = len(self.failures)
        lines = [f"{number} deferred call{'s' * (number > 1)} failed in strict():"]
        for call, origin, why, _ in self.failures:
            lines.append(f"  {call} {why}; from {origin}")
        if any(UNCLOSED in why for _, _, why, _ in self.failures):
            lines.append(
                "Close each response, as a server does: 'with client.get(...):', or "
                "response.close(), or the client's buffered=True."
            )
        return "\n".join(lines)


def strict() -> Strict:
    """A block in which calls run as in production, and which then raises
    ``DeferredCallsFailed`` for each call that failed, was lost, or belonged to a
    response that nobody closed.

    It waits for what is on the background thread. If the block raises something itself,
    that is what goes up. For all threads of the process.
    """
    return Strict()


class Strict(Mode):
    """The block of ``strict()``."""

    def __init__(self) -> None:
        self._heard = _Heard(self)

    def __enter__(self) -> Strict:
        enter_block(self)
        observe_process(self._heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True  # pytest shows the line of the test
        try:
            found = self._settle()
        finally:
            stop_observing(self._heard)
            leave_block(self)
        if error is None:
            _raise(found)

    def check(self) -> None:
        """End the responses that nobody has closed, and raise ``DeferredCallsFailed``
        for what happened so far, as the end of the block does."""
        __tracebackhide__ = True
        _raise(self._settle())

    def _settle(self) -> list[Found]:
        self._heard.opened.wait_for_ends()
        for scope in self._heard.opened.unclosed():
            # Otherwise its calls would run some time later, in another test.
            closed = getattr(scope, "ended", False)
            report_lost(scope, TOO_LONG if closed else UNCLOSED)
        return self._heard.take()


class _Heard(Failures):
    def started(self, call: Call, scope: Scope) -> None:
        # The garbage collector has found the response. Not every Python has one that
        # does so at once, and a server would have closed it.
        if getattr(scope, "was_dropped", False):
            self.add(call, UNCLOSED)


def _raise(found: list[Found]) -> None:
    __tracebackhide__ = True
    if not found:
        return
    failures = tuple(
        Failure(label, call.origin, why, error) for call, label, why, error in found
    )
    causes = [each.error for each in failures if each.error is not None]
    for error in causes:
        error.with_traceback(_of_the_app(error.__traceback__))
    raise DeferredCallsFailed(failures) from (causes[0] if causes else None)


def _of_the_app(trace: TracebackType | None) -> TracebackType | None:
    """Without what it has of this package at its beginning: the log shows that."""
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith("wsgi_defer."):
            break
        trace = trace.tb_next
    return trace
