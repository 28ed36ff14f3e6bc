"""What waits for the commit of a session, ``defer(...).after_commit(session)``.

It is imported by the first such call, and listens to all sessions then. If that may be
inside a hook of a session, where SQLAlchemy takes no listeners, import it at the start.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

KEY = "wsgi_defer"  # in the info of a session
_ASYNC = "async_scoped_session"


def wait_for(
    session: Any, committed: Callable[[], object], rolled_back: Callable[[], object]
) -> _Waiting | None:
    """Call one of the two when the session's transaction has ended.

    That is the one which is open now, or the innermost savepoint, or the next one. If
    it is a savepoint, its release is not the end: the transaction around it decides.
    None if this is not a session.
    """
    # An async one has been imported by whoever has one.
    scoped = getattr(sys.modules.get("sqlalchemy.ext.asyncio"), _ASYNC, scoped_session)
    if isinstance(session, (scoped_session, scoped)):
        session = session.registry()  # that of this thread, task or request
    session = getattr(session, "sync_session", session)  # of an AsyncSession
    if not isinstance(session, Session):
        return None
    ends = _ends_of(session)
    around = session.get_nested_transaction() or session.get_transaction()
    waiting = _Waiting(ends, around, committed, rolled_back)
    ends.waiting.append(waiting)
    return waiting


@dataclass(eq=False)
class _Waiting:
    ends: _Ends
    around: SessionTransaction | None  # its end decides; None is the next one
    committed: Callable[[], object]
    rolled_back: Callable[[], object]

    @property
    def idle(self) -> bool:
        """Whether the session does nothing yet."""
        session = self.ends.session()
        return (
            self.around is None
            and session is not None
            and session.get_transaction() is None
        )

    def abandon(self, why: str) -> None:
        """Wait no longer, if the session does nothing yet."""
        if self.idle:
            with suppress(ValueError):  # it has ended
                self.ends.waiting.remove(self)


class _Ends:
    """Hears how the transactions of one session end."""

    def __init__(self, session: Session) -> None:
        self.session = weakref.ref(session)
        self.waiting: list[_Waiting] = []

    def tell(self, transaction: SessionTransaction) -> None:
        """It has ended, and the session may be used again. A rollback, and the end of
        a session, come here without a commit."""
        committed, outer = transaction in _committed, transaction.parent
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


def _ends_of(session: Session) -> _Ends:
    ends: _Ends | None = session.info.get(KEY)
    if ends is None or ends.session() is not session:  # its info is a copy of another's
        ends = session.info[KEY] = _Ends(session)
    return ends


_committed: weakref.WeakSet[SessionTransaction] = weakref.WeakSet()


def _note_commit(session: Session) -> None:
    # A savepoint is released, or all is committed. The session is still busy. Noted
    # always, as a hook of the app's, after this one, may be the first that waits.
    done = session.get_nested_transaction() or session.get_transaction()
    if done is not None:
        _committed.add(done)


def _tell(session: Session, transaction: SessionTransaction) -> None:
    ends = session.info.get(KEY)
    if ends is not None and ends.session() is session:
        ends.tell(transaction)


# On the class, once: a hook of the app's may be the first to wait on a session, and
# SQLAlchemy refuses new listeners of a session while it tells those it has.
event.listen(Session, "after_commit", _note_commit)
event.listen(Session, "after_transaction_end", _tell)


def _savepoint_or_root(transaction: SessionTransaction) -> SessionTransaction:
    while not transaction.nested and transaction.parent is not None:
        transaction = transaction.parent  # that of a flush
    return transaction
