"""What can go wrong with a deferred call before it runs, and with a job of a pool."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    _TimeoutError = TimeoutError
else:
    from concurrent.futures import TimeoutError as _FuturesTimeoutError

    class _TimeoutError(_FuturesTimeoutError, TimeoutError):
        """Both kinds, which are one from 3.11 on."""


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


class UnknownPoolError(DeferError):
    """There is no pool of that name.

    Carries ``pool``, the name, and ``known``, the names that there are.
    """

    def __init__(self, pool: str, known: tuple[str, ...]) -> None:
        super().__init__(pool, known)
        self.pool = pool
        self.known = known

    def __str__(self) -> str:
        names = ", ".join(repr(name) for name in self.known)
        return (
            f"there is no pool {self.pool!r}, only {names}. Pools are configured once: "
            "DeferMiddleware(app, pools={...: ThreadPool(8)}), or the same with Defer "
            "or deferring()."
        )


TOO_SLOW = (
    "The pool may be too small, its max_wait too short, or what the job waits for too "
    "slow; a job that waits for another one of its own pool may wait in vain."
)


class PoolTimeoutError(DeferError, _TimeoutError):
    """A job of a pool had no result in time.

    Carries ``pool``, the pool's name, ``function``, that of the function, ``seconds``,
    the time that was allowed, and ``why``, what may be the reason. It is a
    ``TimeoutError``, too.
    """

    def __init__(
        self, pool: str, function: str, seconds: float, why: str = TOO_SLOW
    ) -> None:
        super().__init__()
        self.pool = pool
        self.function = function
        self.seconds = seconds
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[str, str, float, str]]:
        return type(self), (self.pool, self.function, self.seconds, self.why)

    def __str__(self) -> str:
        return (
            f"{self.function} on the pool {self.pool!r} had no result after "
            f"{self.seconds:g} s. {self.why}"
        )


class PoolClosedError(DeferError):
    """The process exits, and its pools take no more jobs.

    Carries ``pool``, the pool's name.
    """

    def __init__(self, pool: str) -> None:
        super().__init__(pool)
        self.pool = pool

    def __str__(self) -> str:
        return (
            f"the pool {self.pool!r} takes no more jobs, because the process exits. "
            "Call the function itself, if it is to run all the same."
        )


class PoolStartError(DeferError):
    """A process pool could not start a process for a job, which has not run.

    Carries ``pool``, the pool's name, and ``why``.
    """

    def __init__(self, pool: str, why: str) -> None:
        super().__init__(pool, why)
        self.pool = pool
        self.why = why

    def __str__(self) -> str:
        return (
            f"no process could be started for the pool {self.pool!r}: {self.why}. What "
            "it wrote is in the server's standard error. If sys.executable is not "
            "Python, as in uWSGI, multiprocessing.set_executable() says what is."
        )


class WorkerDiedError(DeferError):
    """The child process died in which the job ran.

    Carries ``pool``, the pool's name, ``function``, that of the function, and
    ``exitcode``, the child's: negative for a signal, ``None`` if it is unknown.
    """

    def __init__(self, pool: str, function: str, exitcode: int | None) -> None:
        super().__init__(pool, function, exitcode)
        self.pool = pool
        self.function = function
        self.exitcode = exitcode

    def __str__(self) -> str:
        return (
            f"the process that ran {self.function} for the pool {self.pool!r} died "
            f"with exit code {self.exitcode}. Another one takes its place; the job is "
            "not run again. What it wrote last is in the server's standard error."
        )


class UnpicklableError(DeferError, TypeError):
    """Something cannot be sent to another process, or back.

    Carries ``pool``, the pool's name, ``function``, that of the function, ``what`` it
    was: its call or its result, and ``why``, in names of types: pickle's own text may
    show arguments, and would be in the log.
    """

    def __init__(self, pool: str, function: str, what: str, why: str) -> None:
        super().__init__(pool, function, what, why)
        self.pool = pool
        self.function = function
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return (
            f"the {self.what} of {self.function} cannot be pickled for the pool "
            f"{self.pool!r} ({self.why}). A process pool takes functions of modules, "
            "not lambdas or inner functions, and plain data; a ThreadPool takes "
            "anything."
        )


class RemoteError(DeferError):
    """A job in another process raised what cannot be sent back, or ``sys.exit()``.

    Carries ``kind``, the name of the exception's class, and ``text``, what it said.
    The cause has its traceback.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class RemoteTraceback(Exception):  # noqa: N818 - it is the cause of one, not an error
    """The traceback of an exception that came from another process, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
