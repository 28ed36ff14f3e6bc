"""Calls that wait for a commit of a database transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any

from django.db import transaction

from .._calls.call import DeferredCall
from .._calls.drain import discard_held, drain, run_held
from .._calls.invoke import check_function
from .._calls.outcome import Outcome
from .._calls.scope import Scope, enter, get_current, leave
from ..errors import NoScopeError
from ._exchange import DjangoExchange


def defer_on_commit(
    fn: Callable[..., object], /, *args: Any, using: str | None = None, **kwargs: Any
) -> None:
    """``defer(fn, *args, **kwargs)`` when the transaction has committed.

    Never, if it is rolled back. Outside a transaction, at once. ``using`` names the
    database; without it, the default one. Raises as ``defer()``.
    """
    check_function(fn, "defer_on_commit", "defer_on_commit(send, to)")
    _current()
    frame = sys._getframe(1)
    line: Any = SimpleNamespace(f_code=frame.f_code, f_lasti=frame.f_lasti)
    context = copy_context()

    def add() -> None:
        # In the scope of the commit, which may come after that of the line.
        context.run(_add, _current(), fn, args, kwargs, line)

    transaction.on_commit(add, using=using)


def _add(scope: Scope, *of_call: Any) -> None:
    enter(scope)
    scope.add(DeferredCall[object](*of_call), "defer_on_commit")


def _current() -> Scope:
    scope = get_current()
    if scope is None:
        raise NoScopeError("defer_on_commit")
    return scope


# A connection in a transaction, and how many functions waited for its commit.
Open = tuple[Any, int]


def open_transactions(used: Iterable[Any]) -> list[Open]:
    """Those that are around a request, as that of a ``TestCase`` is; mostly none."""
    return [
        (connection, len(connection.run_on_commit))
        for connection in used
        if connection.in_atomic_block
    ]


def keep_scope(transactions: list[Open], request: DjangoExchange) -> None:
    """Give what the request has left to those commits a scope: it has ended by then.

    ``captureOnCommitCallbacks(execute=True)`` runs that after the response.
    """
    for connection, count in transactions:
        connection.run_on_commit[count:] = [
            (savepoints, partial(_run_late, request, fn), robust)
            for savepoints, fn, robust in connection.run_on_commit[count:]
        ]


class _LateScope(Scope):
    """That of a request whose response has ended before its transaction."""

    answers = True


def _run_late(request: DjangoExchange, fn: Callable[[], object]) -> None:
    if get_current() is not None:
        fn()
        return
    scope = _LateScope(request.options)
    token = enter(scope)
    try:
        fn()
    finally:
        leave(token)
    outcome = request.final_outcome
    error = None
    if outcome.ok:
        error = run_held(scope)
    discard_held(scope, f"the status is {outcome.status}")
    drain(scope, outcome if error is None else Outcome(503, error))
    if error is not None:
        raise error
