"""Calls that wait for a commit of a database transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec

from django.db import connections, transaction

from .._calls.call import DeferredCall
from .._calls.drain import discard_held, drain, run_held
from .._calls.invoke import check_function
from .._calls.outcome import Outcome
from .._calls.scope import Scope, enter, get_current, leave
from ..errors import NoScopeError

P = ParamSpec("P")


def defer_on_commit(
    fn: Callable[..., object], /, *args: Any, using: str | None = None, **kwargs: Any
) -> None:
    """``defer(fn, *args, **kwargs)`` when the transaction has committed.

    Never, if it is rolled back. Outside a transaction, at once. ``using`` names the
    database; without it, the default one. Raises as ``defer()``.
    """
    check_function(fn, "defer_on_commit", "defer_on_commit(send, to)")
    if get_current() is None:
        raise NoScopeError("defer_on_commit")
    call = DeferredCall[object](fn, args, kwargs, sys._getframe(1))
    transaction.on_commit(partial(_add, call), using=using)


def _add(call: DeferredCall[object]) -> None:
    scope = get_current()
    if scope is None:
        raise NoScopeError("defer_on_commit")
    scope.add(call, "defer_on_commit")


@contextmanager
def keep_scopes(scope: Scope) -> Iterator[None]:
    """Give what the block leaves to a commit a scope, if that comes after the block.

    That is so in a ``TestCase``, whose transaction is around the request:
    ``captureOnCommitCallbacks(execute=True)`` runs what is left there when the response
    has ended.
    """
    before = [
        (connection, len(connection.run_on_commit))
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    yield
    for connection, count in before:
        if connection.in_atomic_block:
            connection.run_on_commit[count:] = [
                (savepoints, partial(_run_late, scope, fn), robust)
                for savepoints, fn, robust in connection.run_on_commit[count:]
            ]


class _LateScope(Scope):
    """That of a request whose response has ended before its transaction."""

    answers = True


def _run_late(request: Scope, fn: Callable[[], object]) -> None:
    if get_current() is not None:
        fn()
        return
    scope = _LateScope(request.options)
    token = enter(scope)
    try:
        fn()
    finally:
        leave(token)
    outcome = request.outcome or Outcome()
    error = None
    if outcome.ok:
        error = run_held(scope)
    discard_held(scope, f"the status is {outcome.status}")
    drain(scope, outcome if error is None else Outcome(503, error))
    if error is not None:
        raise error
