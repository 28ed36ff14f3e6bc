"""A block of code whose calls run when it ends, because there is no response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .._runtime.stop_orders import is_order_to_stop
from .drain import discard_held, drain, run_held
from .outcome import Outcome
from .scope import Scope, enter, leave


@contextmanager
def calls_run_after(scope: Scope) -> Iterator[Scope]:
    """Make the scope current inside the block, and run its calls when that ends.

    ``wsgi_defer.deferring()`` says what an exception in the block means for them.
    """
    token = enter(scope)
    error: BaseException | None = None
    try:
        yield scope
    except BaseException as raised:
        succeeded = isinstance(raised, SystemExit) and not raised.code
        if not succeeded or is_order_to_stop(raised):
            error = raised
        raise
    finally:
        leave(token)
        if scope.forked:  # the parent runs the calls
            scope.shut()
        else:
            _end_block(scope, error)
        del error  # frame cycle


def _end_block(scope: Scope, error: BaseException | None) -> None:
    refusal: BaseException | None = None
    if error is None:
        try:
            error = refusal = run_held(scope)
        except BaseException as raised:
            error = refusal = raised
    if error is not None:
        scope.note_order(error)
    discard_held(scope, "the block raised")
    drain(scope, Outcome(status=None, error=error))
    try:
        if refusal is not None:
            raise refusal
    finally:
        del error, refusal  # frame cycle
