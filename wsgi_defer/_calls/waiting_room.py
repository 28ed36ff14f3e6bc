"""A limit on the calls that wait in this process."""

from __future__ import annotations

from typing import Literal
from weakref import ref

from ..errors import TooManyWaitingError
from ..observers._observer import Observer
from .call import Call
from .options import check_choice
from .scope import Scope

WhenFull = Literal["raise", "drop"]


def waiting_room(max_waiting: int | None, when_full: WhenFull) -> WaitingRoom | None:
    """The room for so many calls; None if there is no limit. Raises ``ValueError``."""
    check_choice("when_full", when_full, ("raise", "drop"))
    if max_waiting is None:
        return None
    if max_waiting < 1:
        raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
    return WaitingRoom(max_waiting, drop_oldest=when_full == "drop")


class WaitingRoom(Observer):
    """The calls of one middleware that wait, oldest first, and no more than ``limit``.

    ``drop_oldest`` makes room for a new call; otherwise the new one is refused. Safe
    from any thread; several at once may exceed the limit by one each.
    """

    def __init__(self, limit: int, drop_oldest: bool) -> None:
        self.limit = limit
        self.drop_oldest = drop_oldest
        # Not the calls themselves: their contexts hold the scope, and then nobody would
        # notice that a server dropped it.
        self._waiting: dict[int, tuple[ref[Call], ref[Scope]]] = {}

    def admit(self, call: Call, scope: Scope) -> None:
        """Let one more call wait. Raises ``TooManyWaitingError``."""
        if len(self._waiting) >= self.limit:
            if not self.drop_oldest:
                raise TooManyWaitingError(self.limit)
            self._drop_oldest()
        self._waiting[id(call)] = (ref(call), ref(scope))

    def _drop_oldest(self) -> None:
        try:
            oldest_of, scope_of = self._waiting.pop(next(iter(self._waiting)))
        except (StopIteration, KeyError, RuntimeError):  # another thread was quicker
            return
        oldest, scope = oldest_of(), scope_of()
        if scope is not None and oldest is not None and oldest.pending:
            scope.drop(oldest, f"dropped, as the oldest of {self.limit} that wait")

    def started(self, call: Call, scope: Scope) -> None:
        self._waiting.pop(id(call), None)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self._waiting.pop(id(call), None)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._waiting.pop(id(call), None)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._waiting.pop(id(call), None)
