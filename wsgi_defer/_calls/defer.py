"""The functions by which views register calls, and cancel them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from ..errors import NoScopeError
from .call import Async, Call, DeferredCall
from .invoke import check_function
from .scope import get_current

P = ParamSpec("P")
T = TypeVar("T")


@overload
def defer(
    fn: Callable[P, Async[T]], /, *args: P.args, **kwargs: P.kwargs
) -> DeferredCall[T]: ...


@overload
def defer(
    fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> DeferredCall[T]: ...


def defer(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> DeferredCall[Any]:
    """Run ``fn(*args, **kwargs)`` after the client has its response, in this process.

    The call runs at most once, after those deferred before it, in the
    ``contextvars`` context of this line, and only if the final status is below 400
    and the app did not raise; options on the returned call say otherwise. If the call
    fails, that is logged. If ``fn`` returns a coroutine, it runs to its end. Works from
    any thread that carries the request's context.

    What a framework keeps by thread, as Bottle keeps its ``request``, is not there if
    the call runs on another thread: read what the call needs first, and pass that. Or
    bind it again, with the middleware's ``around``.

    Raises ``TypeError`` if ``fn`` is not callable, or is a generator function, of which
    nothing would run. Raises ``NoScopeError`` outside a request, ``ScopeClosedError``
    after its end, ``TooManyCallsError`` over the limit.
    """
    check_function(fn, "defer", "defer(send, to)")
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
    check_function(fn, "before_response", "before_response(send, to)")
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
