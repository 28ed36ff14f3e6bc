"""What waits for the commit of a session, ``defer(...).after_commit(session)``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

KEY = "wsgi_defer"  # in the info of a session


def wait_for(
    session: Any, committed: Callable[[], object], rolled_back: Callable[[], object]
) -> bool:
    """Call one of the two when the session's transaction has ended.

    That is the one which is open now, or the innermost savepoint, or the next one. If
    it is a savepoint, its release is not the end: the transaction around it decides.
    False if this is not a session.
    """
    registry = getattr(session, "registry", None)
    if registry is not None:  # of a scoped_session: that of this thread, or request
        session = registry()
    session = getattr(session, "sync_session", session)  # of an AsyncSession
    if not isinstance(session, Session):
        return False
    ends = session.info.get(KEY)
    if ends is None:
        ends = session.info[KEY] = _Ends()
        event.listen(session, "after_commit", ends.note_commit)
        event.listen(session, "after_transaction_end", ends.tell)
    around = session.get_nested_transaction() or session.get_transaction()
    ends.waiting.append(_Waiting(around, committed, rolled_back))
    return True


@dataclass(eq=False)
class _Waiting:
    around: SessionTransaction | None  # its end decides; None is the next one
    committed: Callable[[], object]
    rolled_back: Callable[[], object]


class _Ends:
    """Hears how the transactions of one session end."""

    def __init__(self) -> None:
        self.waiting: list[_Waiting] = []
        self._committed: SessionTransaction | None = None

    def note_commit(self, session: Session) -> None:
        """A savepoint is released, or all is committed. The session is still busy."""
        done = session.get_nested_transaction() or session.get_transaction()
        self._committed = done

    def tell(self, session: Session, transaction: SessionTransaction) -> None:
        """It has ended, and the session may be used again. A rollback, and the end of
        a session, come here without a commit."""
        committed, outer = self._committed is transaction, transaction.parent
        if committed:
            self._committed = None
        ended = [
            each for each in self.waiting if outer is None or each.around is transaction
        ]
        if committed and outer is not None:
            for each in ended:
                each.around = _savepoint_or_root(outer)
            return
        self.waiting = [each for each in self.waiting if each not in ended]
        with ExitStack() as stack:  # all of them, also if one raises
            for each in reversed(ended):
                stack.callback(each.committed if committed else each.rolled_back)


def _savepoint_or_root(transaction: SessionTransaction) -> SessionTransaction:
    while not transaction.nested and transaction.parent is not None:
        transaction = transaction.parent  # that of a flush
    return transaction
