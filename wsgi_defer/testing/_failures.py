"""An observer that keeps what the log tells."""

from __future__ import annotations

from typing import NamedTuple

from .._calls import switch
from .._calls.call import Call
from .._calls.scope import Scope
from .._calls.switch import Mode
from ..observers._log import LoggingObserver
from ..observers._observer import Observer
from ._block import Opened


class Found(NamedTuple):
    """A call that failed or was lost, and how to call it: with those of its chain."""

    call: Call
    label: str
    why: str
    error: BaseException | None


class Failures(LoggingObserver):
    """The calls that failed or were lost while ``mode`` decides, and their scopes.

    As in the log, an error that other code deals with is not a failure, and one that
    several calls of a chain pass on is one failure.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.opened = Opened()
        self._found: dict[Call, Found] = {}

    @property
    def decides(self) -> bool:
        """False inside of another block."""
        return switch.mode is self.mode

    def add(self, call: Call, why: str) -> None:
        """Note what became of a call, unless something is noted already."""
        self._add(Found(call, call.label, why, None))

    def _add(self, found: Found) -> None:
        if self.decides:
            self._found.setdefault(found.call, found)

    def take(self) -> list[Found]:
        """What was found since the last time, in order."""
        found, self._found = self._found, {}
        return list(found.values())

    def queued(self, call: Call, scope: Scope) -> None:
        if self.decides:
            self.opened.note(scope)

    def _log_failure(self, call: Call, scope: Scope, error: BaseException) -> None:
        why = f"raised {type(error).__name__}: {error}"
        self._add(Found(call.first_to_fail(), call.chain, why, error))

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        self.add(call, f"was lost: {why}")

    # Not of interest here, and the log has them.
    finished = Observer.finished
    slow = Observer.slow
    overran = Observer.overran
