"""Work after the response, in the WSGI worker that sent it."""

from ._call import Call, DeferredCall
from ._drain import deferring
from ._middleware import DeferMiddleware
from ._observer import Observer
from ._outcome import Outcome
from ._scope import Scope, before_response, current_scope, defer, forget
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
