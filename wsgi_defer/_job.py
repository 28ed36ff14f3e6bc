"""One job of a pool, and its future: they are the same object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import (
    TimeoutError as FuturesTimeoutError,  # up to 3.10, its own
)
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Protocol

from ._call import qualified_name
from ._deadlines import Queue
from ._scope import Scope
from .errors import PoolTimeoutError

_NO_KWARGS: Mapping[str, Any] = {}


class Runner(Protocol):
    """The pool that a job belongs to, as the job sees it."""

    max_wait: float
    jobs: Queue
    stops_running: bool

    def stop(self, job: Job) -> None:
        """Nobody wants its result any more; it may not have begun."""


class Job(Future[Any]):
    """A function with its arguments on its way through a pool.

    The state RUNNING of a ``Future`` means that it cannot be cancelled. Jobs that a
    pool can stop while they run do without it, and tell so by themselves.

    It ends once: by its function, by ``cancel()``, or too late. Whoever is first wins,
    and what comes then disturbs nobody. Its arguments and its context, which hold the
    request, are let go of at that moment.
    """

    begun = False
    payload = b""  # for another process
    finished = False  # its function has returned
    replaced = False  # so is the thread that it runs on

    def __init__(
        self,
        runner: Runner,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._runner = runner
        self._pool = pool
        self._scope: Scope | None = scope
        self._fn: Callable[..., Any] | None = fn
        self._args = args
        self._kwargs = kwargs
        self._context: Context | None = copy_context()
        self.deadline = monotonic() + runner.max_wait

    @property
    def pool(self) -> str:
        """The name of its pool."""
        return self._pool

    @property
    def label(self) -> str:
        """What logs and errors call it: its function's name, never its arguments."""
        fn = self._fn
        return "job" if fn is None else qualified_name(fn)

    def enter(self) -> None:
        """Begin to wait. Raises ``ScopeClosedError``."""
        if self._scope is not None:
            self._scope.add_guest(self, "submit")
        self._runner.jobs[self] = None

    def begin(self) -> tuple[Context, Callable[..., Any], Any, Any] | None:
        """What is to be run; None if it has ended already."""
        with self._condition:
            work = self._context, self._fn, self._args, self._kwargs
            if self._state != "PENDING" or work[0] is None or work[1] is None:
                return None
            self.begun = True
            if not self._runner.stops_running:
                self._state = "RUNNING"
            return work[0], work[1], work[2], work[3]

    def succeed(self, result: object) -> None:
        """It has run. No effect if it has ended before."""
        self._leave()
        try:
            self.set_result(result)
        except InvalidStateError:
            pass  # it came too late

    def fail(self, error: BaseException) -> bool:
        """It failed. False, and no effect, if it has ended before."""
        self._leave()
        try:
            self.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def _leave(self) -> None:
        self._runner.jobs.pop(self, None)
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.remove_guest(self)
        self._fn = self._context = None
        self._args, self._kwargs = (), _NO_KWARGS
        self.payload = b""

    def running(self) -> bool:
        return self.begun and not self.done()

    def cancel(self) -> bool:
        """Cancel it. False if it has ended, or runs where nothing can end it."""
        if not super().cancel():
            return False
        with self._condition:
            first = self._state == "CANCELLED"
            if first:  # who waits for several futures learns of it here only
                self.set_running_or_notify_cancel()
        if first:
            self._leave()
            self._runner.stop(self)
        return True

    def expire(self) -> None:
        """Its pool's ``max_wait`` is over."""
        if self.fail(PoolTimeoutError(self._pool, self.label, self._runner.max_wait)):
            self._runner.stop(self)

    def scope_closed(self) -> None:
        """The request has ended, and nobody has awaited it."""
        if not self.cancel() and self.fail(CancelledError("the request has ended")):
            self._runner.stop(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, for at most ``timeout`` seconds; return it or raise.

        Raises ``PoolTimeoutError`` after that time, and the job goes on. Raises
        ``ValueError`` for a negative time, and nothing has happened.
        """
        try:
            return super().result(checked_timeout(timeout))
        except (TimeoutError, FuturesTimeoutError) as error:
            if error is self._exception:  # the job has raised it
                raise
            raise PoolTimeoutError(self._pool, self.label, timeout or 0) from None
        finally:
            del self  # this frame is in the traceback of an error that the job holds

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end; return what it raised, or None. See ``result()``."""
        try:
            return super().exception(checked_timeout(timeout))
        except (TimeoutError, FuturesTimeoutError):
            raise PoolTimeoutError(self._pool, self.label, timeout or 0) from None


def checked_timeout(timeout: float | None) -> float | None:
    """Refuse a negative time to wait."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout takes seconds, 0 or more, not {timeout!r}")
    return timeout
