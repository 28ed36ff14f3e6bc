"""How jobs get to the engine: now, with the response, or after a commit."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any
from uuid import uuid4

from .._calls.call import Call
from .._calls.scope import current_scope
from .._runtime import commits
from ..errors import ResponseStartedError, ScopeClosedError
from ..observers._job_observer import JobObserver
from ._asking import Asking
from ._carrier import carried
from ._job import Handler, Order, check_id, to_json

LONGEST_DELAY = 366 * 24 * 3600.0  # seconds
MOST_AT_ONCE = 10_000  # jobs


class Enqueuing(Asking):
    """The part of ``Jobs`` that enqueues them."""

    max_payload: int

    @abstractmethod
    def find(self, name: str) -> Handler:
        """The handler of that name. Raises ``UnknownHandlerError``."""

    @property
    @abstractmethod
    def observers(self) -> Sequence[JobObserver]:
        """Who sees the jobs."""

    def enqueue(
        self,
        name: str,
        payload: Any = None,
        *,
        job_id: str | None = None,
        delay: float = 0,
        hold: bool = True,
        after_commit: object = False,
        using: str | None = None,
    ) -> str:
        """Have another process do a job, even if this one dies; return the job's id.

        Inside a request, the engine gets the job just before the response starts, and
        only if its status is below 400. If the engine refuses it, the client gets a
        503. Anywhere else, as in ``deferring()`` and in commands, and with
        ``hold=False``, the engine gets it now. Until then ``status()`` is ``None``.

        :param payload: anything that is JSON, up to ``max_payload`` bytes.
        :param job_id: names the job. The same id again changes nothing: the job runs
            once. At most 64 letters, digits and ``._-``.
        :param delay: seconds to wait at least before it runs.
        :param after_commit: the engine gets it only if the database transaction that is
            open here commits. A session of SQLAlchemy, or True for Django, where
            ``using`` names the database, as in ``transaction.on_commit()``, and the app
            is ``wsgi_defer.django``. End a session with its request, by ``remove()`` or
            ``close()``: a transaction that stays open may commit in another request.

        Raises ``UnknownHandlerError``, ``PayloadError``, ``ValueError``, ``TypeError``
        and ``NotSupported`` before anything is stored; ``JobsUnavailable`` if the
        engine does not answer within about 2 seconds; ``TooManyCallsError`` for more
        held jobs than the middleware's ``max_calls``.
        """
        order = self._order(name, payload, job_id, delay)
        store = self._store(self.engine.enqueue, order, hold, sys._getframe(1))
        _store_or_wait(store, after_commit, using)
        return order.id

    def enqueue_many(
        self,
        jobs: Iterable[tuple[str, Any]],
        *,
        delay: float = 0,
        hold: bool = True,
        after_commit: object = False,
        using: str | None = None,
    ) -> list[str]:
        """Enqueue jobs together, each a name and a payload; return their ids.

        All of them are stored, or none: in SQLite, PostgreSQL and Redis in one
        transaction. RabbitMQ gets them one by one, so if it goes away meanwhile, the
        first ones are stored. In a request they wait as one. ``delay``, ``hold``,
        ``after_commit`` and ``using`` are as in ``enqueue()``.

        Raises as ``enqueue()``, and ``ValueError`` for more than 10,000 jobs, as others
        wait while they are stored.
        """
        orders = [self._order(name, payload, None, delay) for name, payload in jobs]
        if len(orders) > MOST_AT_ONCE:
            raise ValueError(
                f"enqueue_many() takes up to {MOST_AT_ONCE} jobs, not {len(orders)}; "
                "call it several times"
            )
        if orders:
            caller = sys._getframe(1)
            store = self._store(self.engine.enqueue_many, orders, hold, caller)
            _store_or_wait(store, after_commit, using)
        return [order.id for order in orders]

    def _order(
        self, name: str, payload: Any, job_id: str | None, delay: float
    ) -> Order:
        handler = self.find(name)
        if not 0 <= delay <= LONGEST_DELAY:
            raise ValueError(f"delay takes seconds, from 0 to a year, not {delay}")
        job_id = uuid4().hex if job_id is None else check_id(job_id)
        text = to_json(name, payload, self.max_payload)
        text += carried(self.observers, name)
        if delay and not self.engine.delays:
            self.engine.refuse("delay")
        return Order(job_id, handler, text, float(delay))

    def _store(
        self, store: Callable[[Any], None], what: Any, hold: bool, caller: FrameType
    ) -> Callable[[], None]:
        """What has the engine store that, now or when the response starts."""
        may_hold = hold and self.engine.holds
        call = Call(store, (what,), {}, caller)

        def run() -> None:
            if not (may_hold and _hold(call)):
                store(what)

        return run


def _store_or_wait(
    store: Callable[[], None], after_commit: object, using: str | None
) -> None:
    """Have jobs stored now, or when the transaction has committed."""
    if after_commit is True:
        commits.on_commit(store, using)
    elif using is not None:
        raise ValueError("using= is for after_commit=True")
    elif after_commit is False or after_commit is None:
        store()
    else:
        scope = current_scope()
        wait = commits.wait_for(after_commit, store, lambda: None)
        if scope is not None and wait.idle:  # what another request commits is not meant
            with suppress(ScopeClosedError):
                scope.add_guest(wait, "enqueue")


def _hold(call: Call) -> bool:
    """Leave it to the response. False if no response is to come."""
    scope = current_scope()
    while scope is not None and not scope.answers:  # a block of deferring()
        scope = scope.outer
    if scope is None or scope.closed or scope.started:
        return False
    # Without the contexts that are around calls: what they raise at their end would
    # refuse a job that is stored.
    call.bare = True
    try:
        scope.hold(call, "enqueue")
    except (ResponseStartedError, ScopeClosedError):
        return False  # another thread has just started it
    return True
