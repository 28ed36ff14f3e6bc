"""A limit on the calls that wait in this process."""

from __future__ import annotations

from weakref import ref

from ._call import Call
from ._observer import Observer
from ._scope import Scope
from .errors import TooManyWaitingError


class WaitingRoom(Observer):
    """The calls of one middleware that wait, oldest first, and no more than ``limit``.

    ``drop_oldest`` makes room for a new call; else the new one is refused. Safe from
    any thread; several at once may go over the limit by one each.
    """

    def __init__(self, limit: int, drop_oldest: bool) -> None:
        self.limit = limit
        self.drop_oldest = drop_oldest
        # Not the calls themselves, whose contexts hold the scope: one that a server
        # drops is to be noticed.
        self._waiting: dict[int, tuple[ref[Call], ref[Scope]]] = {}

    def admit(self, call: Call, scope: Scope) -> None:
        """Let one more wait. Raises ``TooManyWaitingError``."""
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
