"""What can go wrong with a deferred call before it runs."""

from __future__ import annotations


class DeferError(Exception):
    """The base of every error that this package raises itself."""


class NoScopeError(DeferError):
    """There is no request here, so nothing would ever run the call.

    Carries ``function``, the name of the function that was called.
    """

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return (
            f"{self.function}() was called outside a request, so nothing would ever "
            "run the call. In a web request: wrap the WSGI app in DeferMiddleware. "
            "In a command, a queue task, a test or a thread of your own: open a "
            "scope with 'with wsgi_defer.deferring():'."
        )


class ScopeClosedError(DeferError):
    """The request has ended and its calls have run; it takes no more of them.

    Carries ``function``, the name of the function that was called.
    """

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return (
            f"{self.function}() was called after its request had ended and its calls "
            "had run. A thread or task that outlives its request needs a scope of its "
            "own: 'with wsgi_defer.deferring():'."
        )


class TooManyCallsError(DeferError):
    """One request deferred more calls than it may.

    Carries ``limit``, the number of calls allowed.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"this request has deferred {self.limit} calls already, which is its "
            "limit. Does a call defer itself? If the number is right, raise it with "
            "DeferMiddleware(app, max_calls=...), or defer one call that loops."
        )


class ResponseStartedError(DeferError):
    """``before_response()`` came when the response was already on its way."""

    def __str__(self) -> str:
        return (
            "before_response() was called after the response had started, so the "
            "call could no longer run before it. Call it before the first byte of "
            "the body, or use defer()."
        )
