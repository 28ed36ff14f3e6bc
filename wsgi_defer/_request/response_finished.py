"""``environ["wsgi.response_finished"]``: callables that are called after the response.

The promises are in ``docs/response_finished.md``. A callable becomes a deferred call
when the response has ended: so it is isolated, has its time limit, is logged when it
fails, and is named when a worker is killed.
"""

from __future__ import annotations

import sys
from typing import Any

from .._calls.call import DeferredCall
from .._calls.scope import Scope
from .._runtime import forks

KEY = "wsgi.response_finished"


def expect(scope: Scope) -> bool:
    """Note that there are callables; they count as one call. Always returns True."""
    scope.process = forks.process
    scope.registered += 1
    return True


def not_delivered() -> ConnectionError:
    """The error where the server gave up without raising one."""
    return ConnectionAbortedError("the server stopped before the end of the response")


def defer_callables(exchange: Any, args: tuple[Any, ...]) -> None:
    """Defer the callables of that exchange, the last one first, and empty its list.

    ``args`` are the environ, the status line, the headers, and the error or None.
    No limit on the number of calls refuses one: here, nobody could be told.
    """
    observers = exchange.options.observers
    frame = sys._getframe()
    while exchange.finishing:
        call = DeferredCall(exchange.finishing.pop(), args, {}, frame).always()
        exchange.registered += 1
        call.home = exchange
        if observers.queued:
            observers.tell(observers.queued, call, exchange)
        exchange.deferred[call] = None
    del args, frame  # frame cycle
