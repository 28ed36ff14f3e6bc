"""One task of a pool, and its future: they are the same object."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol

from .._calls.invoke import Around
from .._calls.scope import Scope
from .._runtime import events, host, report
from .._runtime.clock import monotonic
from .._runtime.report import qualified_name
from .._runtime.stop_orders import is_order_to_stop
from .._runtime.threads import start
from ..errors import TOO_SLOW, PoolTimeoutError
from ._deadlines import Queue

ASK_AGAIN = 1.0  # seconds; a waiter asks so often how long the server allows it
_GOING_ON = ("PENDING", "RUNNING")
_NO_KWARGS: Mapping[str, Any] = {}
_NO_PATIENCE = (
    "The server would have ended this worker, which has waited for as long as the "
    "server's timeout lets it. Wait for less, or give the server a longer timeout."
)


class Quick(partial[None]):
    """A callback of ours, which returns at once."""


class Runner(Protocol):
    """The pool that a task belongs to, as the task sees it."""

    max_wait: float
    tasks: Queue
    stops_running: bool

    def stop(self, task: Task) -> None:
        """Nobody wants its result any more; it may not have started."""

    @staticmethod
    def inside(around: Around, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run it, and what it may return, inside of what is around calls."""


class Task(Future[Any]):
    """A function with its arguments on its way through a pool.

    The state RUNNING of a ``Future`` means that it cannot be cancelled. Tasks that a
    pool can stop while they run do not use it: ``begun`` tells that they run.

    It ends once: by its function, by ``cancel()``, or because it is late. The first of
    these wins, and the others have no effect. At that moment it lets go of its
    arguments and its context, which hold the request.
    """

    begun = False
    _expires = False
    _label = ""  # once its function is gone
    _done_callbacks: list[Callable[[Future[Any]], object]]  # of Future
    payload = b""  # what another process gets
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
        return self._label if fn is None else qualified_name(fn)

    def enter(self) -> None:
        """Start to wait. Raises ``ScopeClosedError``."""
        # In this order: if the scope ends now, that takes the task out again.
        self._runner.tasks[self] = None
        scope = self._scope
        try:
            if scope is not None:  # it is not late already
                scope.add_guest(self, "submit")
        except BaseException:
            self._leave()
            raise

    def begin(self) -> tuple[Context, Callable[..., Any], Any, Any] | None:
        """What is to be run; None if it has ended already."""
        with self._condition:
            scope, context, fn = self._scope, self._context, self._fn
            args, kwargs = self._args, self._kwargs
            if scope is None or context is None or fn is None:
                return None
            if self._state != "PENDING":
                return None
            self.begun = True
            if not self._runner.stops_running:
                self._state = "RUNNING"
        if (around := scope.options.around) is not None:
            return context, self._runner.inside, (around, fn, args, kwargs), _NO_KWARGS
        return context, fn, args, kwargs

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
        self._runner.tasks.pop(self, None)
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.remove_guest(self)
        if (fn := self._fn) is not None:
            self._label = qualified_name(fn)
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
        self._expires = True
        if self.fail(PoolTimeoutError(self._pool, self.label, self._runner.max_wait)):
            self._runner.stop(self)

    def abandon(self, why: str) -> None:
        """Nobody can await it any more. Raises nothing but an order to stop."""
        try:
            if not self.cancel() and self.fail(CancelledError(why)):
                self._runner.stop(self)
        except BaseException as error:  # for one, its thread could not be replaced
            if is_order_to_stop(error):
                raise
            report.failure(
                events.TASK_NOT_ENDED, error, "the task %s could not be ended",
                self.label, facts={"task": self.label},
            )  # fmt: skip

    def _invoke_callbacks(self) -> None:
        # Future calls it, at its end.
        if not self._done_callbacks:
            return
        # Late tasks share one thread, which must not run the app's callbacks.
        if self._expires and any(
            type(each) is not Quick for each in self._done_callbacks
        ):
            thread = threading.Thread(
                target=self._run_callbacks, name="wsgi_defer-callbacks", daemon=True
            )
            try:
                start(thread)
                return
            except RuntimeError:  # too many threads
                pass
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        try:
            super()._invoke_callbacks()  # type: ignore[misc]
        except BaseException as error:  # Future itself logs each Exception
            if is_order_to_stop(error):
                raise
            report.failure(
                events.CALLBACK_FAILED, error, "a callback of the task %s failed",
                self.label, facts={"task": self.label},
            )  # fmt: skip

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, for at most ``timeout`` seconds; return it or raise.

        Raises ``PoolTimeoutError`` after that time, or shortly before the server would
        end a worker that waits too long; the task keeps running. Raises ``ValueError``
        for a negative time, at once.
        """
        try:
            self._await(timeout)
            return super().result()
        finally:
            del self  # frame cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for its end; return what it raised, or None. See ``result()``."""
        self._await(timeout)
        return super().exception()

    def _await(self, timeout: float | None) -> None:
        seconds = checked_timeout(timeout)
        with self._condition:
            if self._state not in _GOING_ON:
                return
            late = wait_for(self._wait, seconds, monotonic())
        if late is not None:
            raise PoolTimeoutError(self._pool, self.label, *late)

    def _wait(self, seconds: float) -> bool:
        self._condition.wait(seconds)
        return self._state not in _GOING_ON


def abandon_all(tasks: Iterable[Any]) -> None:
    """The process exits, or nothing refers to their pool any more."""
    for task in list(tasks):
        task.abandon("its pool is closed")


def checked_timeout(timeout: float | None) -> float:
    """Refuse a negative time to wait; None means no bound."""
    if timeout is None:
        return math.inf
    if not timeout >= 0:
        raise ValueError(f"timeout takes seconds, 0 or more, not {timeout!r}")
    return timeout


def wait_for(
    wait: Callable[[float], bool], seconds: float, began: float
) -> tuple[float, str] | None:
    """Call ``wait(seconds)`` until it returns True, and then return None.

    It has that many seconds, counted from the time ``began``. When they are over, or
    shortly before the server would end a worker that waits too long, returns after how
    many seconds that was, and why.
    """
    left = seconds - (monotonic() - began)
    while not wait(max(min(left, _patience(), ASK_AGAIN), 0)):
        waited = monotonic() - began
        left = seconds - waited
        if left <= 0:
            return seconds, TOO_SLOW
        # It may have become less, after TERM, or more, for a call with a time limit.
        if _patience() <= 0:
            return round(waited, 1), _NO_PATIENCE
    return None


def _patience() -> float:
    patience = host.current.patience()
    return math.inf if patience is None else patience
