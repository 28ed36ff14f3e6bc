"""Work after the response, in the WSGI worker that sent it.

::

    from wsgi_defer import DeferMiddleware, defer

    def hello(environ, start_response):
        defer(send_mail, "ada@example.org")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"thanks\\n"]

    app = DeferMiddleware(hello)

The client has the whole response first; then the worker that sent it runs the call.

During a request:

- ``defer(fn, *args)`` runs a call after the response, and returns a ``DeferredCall``: a
  future, with options such as ``.always()``, ``.time_limit()`` and ``.then()``.
- ``before_response(fn, *args)`` runs it just before, to hand work to a queue.
- ``forget(name)`` cancels calls by their name.
- ``pool(name).submit(fn)`` and ``gather()`` do several things at once.
- ``current_scope()`` is the request, and ``deferring()`` stands for one elsewhere.

More is in these modules:

- ``wsgi_defer.flask``: ``Defer(app)``, for Flask
- ``wsgi_defer.django``: an app and its middleware, for Django
- ``wsgi_defer.gunicorn``: hooks and worker classes
- ``wsgi_defer.jobs``: jobs that a queue engine keeps, and retries
- ``wsgi_defer.pools``: kinds of pools
- ``wsgi_defer.process``: ``detach()``, for commands that outlive the worker
- ``wsgi_defer.testing``: helpers for tests; pytest has the fixture ``deferred``
"""

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

__version__ = "0.1.0"

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
