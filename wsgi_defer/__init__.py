"""Work after the response, in the WSGI worker that sent it."""

from ._calls.call import Call, DeferredCall
from ._calls.defer import before_response, defer, forget
from ._calls.outcome import Outcome
from ._calls.scope import Scope, current_scope
from ._request.block import deferring
from ._request.middleware import DeferMiddleware
from .errors import (
    DeferError,
    NoScopeError,
    PoolClosedError,
    PoolStartError,
    PoolTimeoutError,
    RemoteError,
    ResponseStartedError,
    ScopeClosedError,
    TimeLimitError,
    TooManyCallsError,
    TooManyWaitingError,
    UnknownPoolError,
    UnpicklableError,
    WaitsForItselfError,
    WorkerDiedError,
)
from .observers._observer import Observer
from .pools import gather, pool

__all__ = [
    "Call",
    "DeferError",
    "DeferMiddleware",
    "DeferredCall",
    "NoScopeError",
    "Observer",
    "Outcome",
    "PoolClosedError",
    "PoolStartError",
    "PoolTimeoutError",
    "RemoteError",
    "ResponseStartedError",
    "Scope",
    "ScopeClosedError",
    "TimeLimitError",
    "TooManyCallsError",
    "TooManyWaitingError",
    "UnknownPoolError",
    "UnpicklableError",
    "WaitsForItselfError",
    "WorkerDiedError",
    "before_response",
    "current_scope",
    "defer",
    "deferring",
    "forget",
    "gather",
    "pool",
]
