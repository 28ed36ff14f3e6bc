"""The functions by which views register calls, and cancel them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec

from ..errors import NoScopeError
from .call import Call, DeferredCall
from .scope import get_current

P = ParamSpec("P")


def defer(
    fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
) -> DeferredCall:
    """Run ``fn(*args, **kwargs)`` after the client has its response, in this process.

    The call runs at most once, after those deferred before it, in the
    ``contextvars`` context of this line, and only if the final status is below 400
    and the app did not raise; options on the returned call say otherwise. If the call
    fails, that is logged. If ``fn`` returns a coroutine, it runs to its end. Works from
    any thread that carries the request's context.

    Raises ``TypeError`` if ``fn`` is not callable, ``NoScopeError`` outside a
    request, ``ScopeClosedError`` after its end, ``TooManyCallsError`` over the limit.
    """
    if not callable(fn):
        raise _not_callable(fn, "defer")
    scope = get_current()
    if scope is None:
        raise NoScopeError("defer")
    call = DeferredCall(fn, args, kwargs, sys._getframe(1))
    scope.append(call, scope.deferred, "defer")  # add(), without a frame more
    return call


def before_response(
    fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
) -> Call:
    """Run ``fn(*args, **kwargs)`` just before the response starts, if it is a success.

    A status of 400 or above discards the call. If it raises, the client gets a plain
    503 in place of the response. The held calls after it are then discarded, and so are
    the deferred calls that wait for a success. Meant for handing work to a queue
    (``before_response(task.delay, 42)``): nothing is queued for a failed request, and
    no client is told of work that was not queued.

    Raises what ``defer()`` raises, and ``ResponseStartedError`` when the response has
    started. An app that sends its body with ``write()`` must call this before
    ``start_response()``.
    """
    if not callable(fn):
        raise _not_callable(fn, "before_response")
    scope = get_current()
    if scope is None:
        raise NoScopeError("before_response")
    call = Call(fn, args, kwargs, sys._getframe(1))
    scope.hold(call, "before_response")
    return call


def forget(name: str) -> None:
    """Cancel the calls of this request that have that name and have not started.

    Raises ``NoScopeError`` outside a request.
    """
    scope = get_current()
    if scope is None:
        raise NoScopeError("forget")
    scope.forget(name)


def _not_callable(fn: object, function: str) -> TypeError:
    return TypeError(
        f"{function}() takes a function and its arguments, as in {function}(send, to); "
        f"the first argument is {type(fn).__name__}, which cannot be called"
    )
