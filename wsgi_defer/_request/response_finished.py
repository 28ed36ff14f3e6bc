"""``environ["wsgi.response_finished"]``: callables that are called after the response.

The promises are in ``docs/response_finished.md``. A callable becomes a deferred call
when the response has ended: so it is isolated, has its time limit, is logged when it
fails, and is named when a worker is killed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .._calls.call import DeferredCall
from .._calls.scope import Scope
from .._runtime import forks

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY = "wsgi.response_finished"


def expect(scope: Scope) -> bool:
    """Note that there are callables; they count as one call. Always returns True."""
    scope.process = forks.process
    scope.registered += 1
    return True


def forget_list(environ: WSGIEnvironment, scope: object) -> None:
    """Take the list of another request of ours out of an environ that is used again."""
    if environ.get(KEY) is getattr(scope, "finishing", environ):
        del environ[KEY]


def defer_callables(
    exchange: Any,
    environ: WSGIEnvironment,
    headers: Any,
    error: BaseException | None,
    delivered: bool,
) -> None:
    """Defer the callables of that exchange, the last one first, and empty its list.

    ``headers`` are the app's, whether or not the server has accepted them. No limit on
    the number of calls refuses one: here, nobody could be told.
    """
    if error is None and not delivered:
        error = exchange.cut_by or ConnectionAbortedError(
            "the server stopped before the end of the response"
        )
    if exchange.status is None:
        headers = None
    args = environ, exchange.status, headers, error
    observers = exchange.options.observers
    frame = sys._getframe()
    while exchange.finishing:
        call = DeferredCall(exchange.finishing.pop(), args, {}, frame).always()
        exchange.registered += 1
        call.home = exchange
        if observers.queued:
            observers.tell(observers.queued, call, exchange)
        exchange.deferred[call] = None
    del args, error, frame  # frame cycle
