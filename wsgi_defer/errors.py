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
            "run the call. For web requests, wrap the WSGI app in DeferMiddleware, or "
            "in Flask call wsgi_defer.flask.Defer(app). In a command, a queue task, a "
            "test or a thread of your own, open a scope with "
            "'with wsgi_defer.deferring():'."
        )


class ScopeClosedError(DeferError):
    """The request has ended, and takes no more calls.

    Carries ``function``, the name of the function that was called.
    """

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return (
            f"{self.function}() was called after its request had ended. A thread or "
            "task that outlives its request needs a scope of its own: "
            "'with wsgi_defer.deferring():'."
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
            "limit. Does a call defer itself? If not, raise the limit with "
            "max_calls=... (of DeferMiddleware, Defer or deferring), or defer one "
            "call that loops."
        )


class ResponseStartedError(DeferError):
    """``before_response()`` came when the response was already on its way."""

    def __str__(self) -> str:
        return (
            "before_response() was called after the response had started, so the "
            "call could no longer run before it. Call it before the first byte of "
            "the body, or use defer()."
        )


class TooManyWaitingError(DeferError):
    """So many calls wait in this process that it takes no more.

    Carries ``limit``, the number of calls that may wait.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.limit} deferred calls wait in this process already, which is its "
            "limit: they come faster than they run. Give the server more workers, "
            "make the calls shorter, hand them to a job queue, or raise the limit "
            "with max_waiting=... of DeferMiddleware."
        )


class WaitsForItselfError(DeferError):
    """A deferred call waits for its own result, which would never come.

    Carries ``call``, the labels of the call and of those that it follows.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return (
            f"the deferred call {self.call} waits for its own result, or for that of a "
            "call that waits for it. Return the value instead, or hand it to then()."
        )


class TimeLimitError(DeferError):
    """A deferred call was ended, because it ran longer than its time limit.

    Carries ``call``, the call's label, and ``seconds``, the limit.
    """

    def __init__(self, call: str, seconds: float) -> None:
        super().__init__(call, seconds)
        self.call = call
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"the deferred call {self.call} was ended at its time limit of "
            f"{self.seconds:g} s. Give it more with .time_limit(seconds) or the "
            "time_limit=... of DeferMiddleware, or make it shorter."
        )
