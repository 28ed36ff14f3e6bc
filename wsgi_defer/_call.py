"""One call that waits for its moment, and the options on it."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from time import monotonic
from types import CodeType, CoroutineType, FrameType
from typing import Any, Literal, Protocol, TypeVar

from ._future import CANCELLED, PENDING, RETURNED, LazyFuture, is_first
from ._outcome import Outcome
from .errors import WaitsForItselfError

# What is opened around a call and closed after it, such as a database session.
Around = Callable[[], AbstractContextManager[object]]
C = TypeVar("C", bound="Call")  # typing.Self is 3.11
_NO_KWARGS: Mapping[str, Any] = {}
# A context, and what to call in it.
Job = tuple[Context, Callable[..., object], tuple[Any, ...], Mapping[str, Any]]


class Home(Protocol):
    """The scope of a call, as far as the call needs it."""

    def add(self, call: DeferredCall, function: str) -> None:
        """Take a call; raises what ``defer()`` raises."""

    def bring_about(self, call: DeferredCall) -> None:
        """Run a call that waits, if this is inside its request."""


class Call:
    """A function with its arguments, held until its moment comes.

    It remembers the ``contextvars`` context and the line that registered it. The
    options return the call, so that they chain; they are for the thread that
    registered it.
    """

    kind = "before_response"  # the function that registers such calls
    _name: str | None = None
    _changed: Callable[[Call], object] | None = None  # who hears of name and cancel()
    _started_at: float | None = None
    _ended_at: float | None = None
    _home: Home | None = None
    _error: BaseException | None = None
    _before: DeferredCall | None = None  # the call that it follows
    _how = ""
    _thread = 0  # where it runs
    _awaited = False  # somebody waits for its result, and gets its error
    _logged = False  # what it raised
    _cancelled = False  # by the app
    bare = False  # runs without what is opened around calls

    def __init__(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        registered_by: FrameType,
    ) -> None:
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        # Each is for the first who takes it, of any thread: to run it, and to tell its
        # end. Lists, because pop() is atomic, and quicker than a lock or a dict.
        self._contexts = [copy_context()]
        self._untold = [True]
        # Not the frame itself, which would keep the view's locals alive; and not its
        # line number, which costs more than all the rest and is seldom asked for.
        self._code: CodeType = registered_by.f_code
        self._instruction: int = registered_by.f_lasti
        self._queued_at = monotonic()

    @property
    def name(self) -> str | None:
        """The name given with ``named()``, if any."""
        return self._name

    @property
    def label(self) -> str:
        """What logs call it: the given name, else the function's. Never arguments."""
        return self._name or qualified_name(self._fn)

    @property
    def origin(self) -> str:
        """The file and line that registered it, as ``file:line``."""
        line = self._code.co_firstlineno
        for start, end, number in self._code.co_lines():
            if start <= self._instruction < end and number is not None:
                line = number
        return f"{self._code.co_filename}:{line}"

    @property
    def pending(self) -> bool:
        """True until the call has begun, or was skipped or cancelled."""
        return bool(self._contexts)

    @property
    def waited(self) -> float:
        """Seconds from its registration to its begin, or until now."""
        began = self._started_at
        return (monotonic() if began is None else began) - self._queued_at

    @property
    def ran(self) -> float | None:
        """Seconds from its begin to its end, or until now; None before its begin."""
        if self._started_at is None:
            return None
        ended = self._ended_at
        return (monotonic() if ended is None else ended) - self._started_at

    def named(self: C, name: str) -> C:
        """Give it a name. Of the pending calls of one name, only the last runs."""
        self._name = name
        if self._changed is not None:
            self._changed(self)
        return self

    @property
    def chain(self) -> str:
        """Its label; of a call that follows others, theirs and its own."""
        return self.label

    @property
    def handled(self) -> bool:
        """True if somebody else hears of its failure, so that the log need not."""
        return False

    def cancel(self: C) -> C | Literal[False]:
        """Do not run it. Returns the call, and False if it has begun."""
        if self.take() is None:
            return False
        self._cancelled = True
        if self._changed is not None:
            self._changed(self)
        return self

    def take(self) -> Job | None:
        """What is to be run, for the first who asks; None for all others.

        The call keeps neither the context nor the arguments: a handle that the app
        keeps must not keep the request alive. So this is how a call is given up, too.
        """
        fn, args, kwargs = self._fn, self._args, self._kwargs
        try:
            context = self._contexts.pop()
        except IndexError:
            return None
        self._args, self._kwargs = (), _NO_KWARGS
        self._thread = threading.get_ident()
        if self._before is not None:
            return context, _continue, ([self._before], self._how, fn), kwargs
        return context, fn, args, kwargs

    def _claim_end(
        self, end: int, value: object = None, error: BaseException | None = None
    ) -> bool:
        """Note how it ended. True for the first who does, of any thread: it is to tell
        the observers, and then ``_publish()``."""
        return is_first(self._untold)

    def _publish(self) -> None:
        """Tell who waits for it; here, nobody does."""


def run_job(job: Job, around: Around | None) -> object:
    """Run what ``Call.take()`` has returned; raises and returns what that does.

    A coroutine runs to its end. No method of the call, because what it raises leads
    back to this frame, and the call may keep what it raises.
    """
    context, fn, args, kwargs = job
    try:
        if around is not None:
            return context.run(_complete_within, around, fn, args, kwargs)
        result = context.run(fn, *args, **kwargs)
        return result if result is None else context.run(complete, result)
    except BaseException:
        del job, context, args, kwargs  # the error leads here, and may be kept
        raise


class DeferredCall(Call, LazyFuture):
    """A call that runs after the response, if the response turns out as it wants.

    By default that is a status below 400 from an app that did not raise. What counts
    is the option that holds at the end, not when the call was registered.

    It is a ``concurrent.futures.Future``, too. One that never runs, because it was
    cancelled, skipped or lost, is cancelled. Its methods as a future are safe from any
    thread. Only ``result()`` and ``exception()`` run it early; ``wait()`` and
    ``as_completed()`` of ``concurrent.futures`` wait for it, and so are of use in other
    threads, and after the request.
    """

    kind = "deferred"
    _limit: float | None = None
    _predicate: Callable[[Outcome], object] | None = None
    _followed = False

    def always(self) -> DeferredCall:
        """Run it whatever became of the response."""
        return self.when(_always)

    def on_failure(self) -> DeferredCall:
        """Run it only if the status is 400 or above, or the app raised."""
        return self.when(_not_ok)

    def when(self, predicate: Callable[[Outcome], object]) -> DeferredCall:
        """Run it only if ``predicate(outcome)`` is true, asked just before it would.

        A predicate that raises is logged, and the call is not run.
        """
        if not callable(predicate):
            kind = type(predicate).__name__
            raise TypeError(f"when() takes a function of the Outcome, not {kind}")
        self._predicate = predicate
        return self

    def time_limit(self, seconds: float) -> DeferredCall:
        """End it after ``seconds``, with ``TimeLimitError`` as its failure.

        It is ended on the main thread of the process, which is where gunicorn's sync
        worker runs it, and in gunicorn's gevent workers, there only while it waits.
        Not inside C code, not if the app uses ``SIGALRM`` itself, and not on other
        threads: there the log says that it runs on. The limit holds in place of the
        one of the middleware. Up to the limit, gunicorn does not take the worker for
        stuck, even if it is longer than gunicorn's ``timeout``. ``math.inf`` is none.
        A call that runs early inside another one that has a limit is ended with that.
        """
        self._limit = check_seconds("time_limit", seconds)
        return self

    def wants(self, outcome: Outcome) -> bool:
        """Tell whether it is to run after such a response.

        One that follows another is to run if that one was, unless it says otherwise.
        """
        call: DeferredCall = self
        while call._predicate is None and call._before is not None:
            call = call._before
            if call.done():
                return not call.cancelled()
        return outcome.ok if call._predicate is None else bool(call._predicate(outcome))

    def then(self, fn: Callable[[Any], object]) -> DeferredCall:
        """Defer ``fn(result)`` of this call; returns the new call.

        If this one fails, the new one fails with the same error and ``fn`` is not
        called. Raises ``TypeError`` if ``fn`` is not callable, and what ``defer()``
        raises.
        """
        return self._follow("then", fn, sys._getframe(1))

    def catch(self, fn: Callable[[Any], object]) -> DeferredCall:
        """Defer ``fn(error)``, for if this call, or one that it follows, fails.

        The new call has the result of ``fn``, or of this call if that did not fail.
        Raises as ``then()``.
        """
        return self._follow("catch", fn, sys._getframe(1))

    def finally_(self, fn: Callable[[], object]) -> DeferredCall:
        """Defer ``fn()`` for when this call has returned or failed.

        The new call ends as this one, unless ``fn`` raises. Raises as ``then()``.
        """
        return self._follow("finally_", fn, sys._getframe(1))

    def _follow(
        self, how: str, fn: Callable[..., object], registered_by: FrameType
    ) -> DeferredCall:
        if not callable(fn):
            raise TypeError(f"{how}() takes a function, not {type(fn).__name__}")
        if self._home is None:
            raise RuntimeError(f"{how}() is for calls that defer() has returned")
        call = DeferredCall(fn, (), _NO_KWARGS, registered_by)
        call._before, call._how = self, how
        followed, self._followed = self._followed, True
        try:
            self._home.add(call, how)
        except BaseException:
            self._followed = followed
            raise
        return call

    @property
    def chain(self) -> str:
        before = self._before
        return self.label if before is None else f"{before.chain} -> {self.label}"

    @property
    def handled(self) -> bool:
        return self._followed or self._awaited

    def cancel(self) -> DeferredCall | Literal[False]:  # type: ignore[override]
        """Do not run it. Returns the call, and False if it has begun."""
        if Call.cancel(self):
            self._settle(CANCELLED)
            self._publish()
            return self
        return self if self.cancelled() else False

    def running(self) -> bool:
        """True while it runs."""
        return self._started_at is not None and not self.done()

    def result(self, timeout: float | None = None) -> Any:
        """What it returned; raises what it raised.

        Inside its request, a call that waits is run here and now, once and for all,
        and those that it follows before it; the outcome of the response is not asked.
        Elsewhere, this waits for it, for ``timeout`` seconds at most; then
        ``concurrent.futures.TimeoutError`` is raised. Raises ``CancelledError`` if it
        will never run, and ``WaitsForItselfError`` inside the call itself.
        """
        try:
            self._await(timeout)
            if self._end == RETURNED:
                return self._value
            if self._error is not None:
                raise self._error
            raise CancelledError
        finally:
            self = None  # type: ignore[assignment]  # the error leads back to here

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or None if it returned; else as ``result()``."""
        try:
            self._await(timeout)
            if self._end == CANCELLED:
                raise CancelledError
            return self._error
        finally:
            del self  # its error leads back to here

    def _await(self, timeout: float | None) -> None:
        if self._end != PENDING:
            return
        awaited, self._awaited = self._awaited, True  # so that its error is not logged
        try:
            if self._home is not None:
                self._home.bring_about(self)
            if self._end == PENDING:
                if self.running() and self._thread == threading.get_ident():
                    raise WaitsForItselfError(self.chain)
                Future.exception(self, timeout)
        except CancelledError:
            pass
        except (FutureTimeout, WaitsForItselfError):
            self._awaited = awaited
            raise
        finally:
            del self  # its error leads back to here

    def _claim_end(
        self, end: int, value: object = None, error: BaseException | None = None
    ) -> bool:
        first = Call._claim_end(self, end)
        if first:
            self._settle(end, value, error)
        return first

    _publish = LazyFuture._publish

    def _note_caught(self) -> None:
        """Its failure is dealt with: nobody is to log it any more."""
        first: DeferredCall = self
        while first._before is not None and first._before._error is self._error:
            first = first._before
        first._logged = True

    def __repr__(self) -> str:
        state = ("pending", "finished", "failed", "cancelled")[self._end]
        return f"<DeferredCall {self.label}: {state}>"


def _continue(box: list[DeferredCall], how: str, fn: Callable[..., object]) -> object:
    """What a call runs that follows another one, which is in the box."""
    before = box.pop()
    if not before.done():  # another thread runs it
        wait([before])
    value, error, end = before._value, before._error, before._end
    if error is not None and how == "catch":
        before._note_caught()
    # What was raised leads to this frame and those around it: none is to hold it.
    del before
    if end == CANCELLED:
        raise CancelledError
    if how == "finally_":
        complete(fn())
    elif (how == "catch") == (error is not None):
        return fn(value if error is None else error)
    try:
        if error is not None:
            raise error
    finally:
        del error
    return value


def check_seconds(option: str, seconds: float) -> float:
    """Refuse what is not a time to wait."""
    if not seconds > 0:
        raise ValueError(f"{option} takes seconds, more than 0, not {seconds!r}")
    return seconds


def qualified_name(fn: object) -> str:
    """Name a callable for people: ``module.function``, never its ``repr()``.

    The ``repr()`` of a partial or a bound method would show arguments.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name, module = fn.__qualname__, fn.__module__  # type: ignore[attr-defined]
    except Exception:  # an instance with __call__, or a proxy without its object
        name, module = type(fn).__qualname__, type(fn).__module__
    return f"{module}.{name}" if module else str(name)


def _always(outcome: Outcome) -> bool:
    return True


def _not_ok(outcome: Outcome) -> bool:
    return not outcome.ok


def complete(result: object) -> object:
    """Run what a coroutine function has returned to its end; other results as is."""
    # The exact type first: the other one's test costs ten times as much.
    if isinstance(result, (CoroutineType, Coroutine)):
        from ._coroutine import run_to_end  # asyncio is 50 ms that most never need

        return run_to_end(result)
    return result


def _complete_within(
    around: Around,
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> object:
    with around():
        return complete(fn(*args, **kwargs))
