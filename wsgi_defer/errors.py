"""What can go wrong with a deferred call, and with a task of a pool."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    _TimeoutError = TimeoutError
else:
    from concurrent.futures import TimeoutError as _FuturesTimeoutError

    class _TimeoutError(_FuturesTimeoutError, TimeoutError):
        """Both kinds, which are one from 3.11 on."""


class DeferError(Exception):
    """The base of all errors of this package."""


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
    """The request has ended, so it takes no more calls.

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
            f"this request has already deferred {self.limit} calls, which is its "
            "limit. Does a call defer itself? If not, raise the limit with "
            "max_calls=... (of DeferMiddleware, Defer or deferring), or defer one "
            "call that loops."
        )


class ResponseStartedError(DeferError):
    """``before_response()`` was called after the response had started."""

    def __str__(self) -> str:
        return (
            "before_response() was called after the response had started, so the "
            "call could no longer run before it. Call it before the first byte of "
            "the body, or use defer()."
        )


class TooManyWaitingError(DeferError):
    """Too many calls wait in this process, so it takes no more.

    Carries ``limit``, the number of calls that may wait.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.limit} deferred calls already wait in this process, which is its "
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
    """A deferred call was ended because it ran longer than its time limit.

    Carries ``call``, the call's label, and ``seconds``, the limit.
    """

    def __init__(self, call: str, seconds: float) -> None:
        super().__init__(call, seconds)
        self.call = call
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"the deferred call {self.call} was ended at its time limit of "
            f"{self.seconds:g} s. Give it more time with .time_limit(seconds) or "
            "time_limit=... of DeferMiddleware, or make it shorter."
        )


class UnknownPoolError(DeferError):
    """There is no pool of that name.

    Carries ``pool``, the name, and ``known``, the names of the existing pools.
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
    "The pool may be too small, its max_wait too short, or what the task waits for too "
    "slow; a task that waits for another task of its own pool can deadlock."
)


class PoolTimeoutError(DeferError, _TimeoutError):
    """A task of a pool had no result in time.

    Carries ``pool``, the pool's name, ``function``, the function's name, ``seconds``,
    the time allowed, and ``why``, the likely reason. It is also a ``TimeoutError``.
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
    """The process is exiting, and its pools take no more tasks.

    Carries ``pool``, the pool's name.
    """

    def __init__(self, pool: str) -> None:
        super().__init__(pool)
        self.pool = pool

    def __str__(self) -> str:
        return (
            f"the pool {self.pool!r} takes no more tasks, because the process is "
            "exiting. If the function must still run, call it directly."
        )


class PoolStartError(DeferError):
    """A process pool could not start a process for a task, which has not run.

    Carries ``pool``, the pool's name, and ``why``, the reason.
    """

    def __init__(self, pool: str, why: str) -> None:
        super().__init__(pool, why)
        self.pool = pool
        self.why = why

    def __str__(self) -> str:
        return (
            f"no process could be started for the pool {self.pool!r}: {self.why}. What "
            "it wrote is in the server's standard error. If sys.executable is not "
            "Python, as in uWSGI, name one with multiprocessing.set_executable()."
        )


class WorkerDiedError(DeferError):
    """The child process that ran the task died.

    Carries ``pool``, the pool's name, ``function``, the function's name, and
    ``exitcode``, the child's: negative for a signal, ``None`` if unknown.
    """

    def __init__(self, pool: str, function: str, exitcode: int | None) -> None:
        super().__init__(pool, function, exitcode)
        self.pool = pool
        self.function = function
        self.exitcode = exitcode

    def __str__(self) -> str:
        return (
            f"the process that ran {self.function} for the pool {self.pool!r} died "
            f"with exit code {self.exitcode}. Another one takes its place; the task is "
            "not run again. What it wrote last is in the server's standard error."
        )


class UnpicklableError(DeferError, TypeError):
    """Something cannot be sent to another process, or back.

    Carries ``pool``, the pool's name, ``function``, the function's name, ``what`` it
    was (the call or the result), and ``why``. That names types only: pickle's own text
    may show arguments, which must not get into the log.
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
            f"{self.pool!r} ({self.why}). A process pool takes plain data and functions"
            " of modules, not lambdas or inner functions; a ThreadPool takes anything."
        )


class RemoteError(DeferError):
    """A task in another process raised something that cannot be sent back, or called
    ``sys.exit()``.

    Carries ``kind``, the name of the exception's class, and ``text``, its message. The
    cause has its traceback.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class RemoteTraceback(Exception):  # noqa: N818 - the cause of an error, not one itself
    """The traceback of an exception that came from another process, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
