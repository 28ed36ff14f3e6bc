"""One call that waits for its moment, and the options on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import Context, copy_context
from time import monotonic
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, overload

from .._runtime.report import line_of, printable, qualified_name
from .._runtime.threads import runs_here
from ..errors import WaitsForItselfError
from .future import CANCELLED, PENDING, RETURNED, LazyFuture, T
from .invoke import Invocation, check_no_generator, check_seconds, continue_after
from .outcome import Outcome, always, not_ok

C = TypeVar("C", bound="Call")  # typing.Self is 3.11
U = TypeVar("U")
Async = Coroutine[Any, Any, U]
_NO_KWARGS: Mapping[str, Any] = {}
LONGEST_CHAIN = 10  # calls of a chain that are shown, the last ones


class Home(Protocol):
    """The scope of a call, as the call sees it."""

    def add(self, call: DeferredCall, function: str) -> None: ...
    def bring_about(self, call: DeferredCall) -> None: ...
    def note_name(self, call: Call) -> None: ...


class Call:
    """A function with its arguments, held until it is due.

    It remembers the ``contextvars`` context and the line that registered it. Options
    return the call, so that they chain. Only the thread that registered it sets them.
    """

    kind = "before_response"  # the function that registers such calls
    home: Home | None = None
    changed: Callable[[Call], object] | None = None  # told of a new name, and cancel()
    started_at: float | None = None
    ended_at: float | None = None
    withdrawn = False  # the app called cancel(), or rolled back
    why_withdrawn = "it was cancelled"
    uncommitted: list[bool] = []  # noqa: RUF012  # one for each session to commit
    logged = False  # its failure is in the log
    bare = False  # runs without what is opened around calls
    unpublished: list[bool] = []  # noqa: RUF012  # see LazyFuture
    _name: str | None = None
    _error: BaseException | None = None
    _how = ""
    _thread = 0  # where it runs
    _awaited = False  # somebody waits for its result, and gets its error

    def __init__(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        registered_by: FrameType,
    ) -> None:
        context = copy_context()
        self.context: Context | None = context  # until its end is told
        self._fn = fn
        # One-element lists: the first thread to pop wins. One may run the call, and one
        # tells how it has ended. pop() is atomic, and quicker than a lock.
        self._waiting: list[Invocation] = [(context, fn, args, kwargs)]
        self.untold = [True]
        # Not the frame itself, which would keep the view's locals alive; and not its
        # line number, which costs more than all the rest and is seldom needed.
        self._code, self._instruction = registered_by.f_code, registered_by.f_lasti
        self.queued_at = monotonic()
        self.before: DeferredCall | None = None  # the call that it follows

    @property
    def name(self) -> str | None:
        """The name given with ``named()``, if any."""
        return self._name

    @property
    def label(self) -> str:
        """What logs call it: the given name, else the function's. Never arguments.

        Control characters in a name are escaped, as it may come from a user.
        """
        return printable(self._name) if self._name else qualified_name(self._fn)

    @property
    def _arguments(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Those of its function, until it is taken; then none."""
        waiting = self._waiting[:]
        return waiting[0][2:] if waiting else ((), _NO_KWARGS)

    @property
    def origin(self) -> str:
        """The file and line that registered it, as ``file:line``."""
        return line_of(self._code, self._instruction)

    @property
    def pending(self) -> bool:
        """True until the call has started, or was skipped or cancelled."""
        return bool(self._waiting)

    @property
    def waited(self) -> float:
        """Seconds from its registration to its start, or until now."""
        return (self.started_at or monotonic()) - self.queued_at

    @property
    def ran(self) -> float | None:
        """Seconds from its start to its end, or until now; None before its start."""
        if self.started_at is None:
            return None
        return (self.ended_at or monotonic()) - self.started_at

    def named(self: C, name: str) -> C:
        """Give it a name. Of the pending calls of one name, only the last runs."""
        self._name = name
        if self.home is not None:
            self.home.note_name(self)
        if self.changed is not None:
            self.changed(self)
        return self

    @property
    def chain(self) -> str:
        """Its label; of a call that follows others, theirs and its own."""
        labels: list[str] = []
        call: Call | None = self
        while call is not None and len(labels) < LONGEST_CHAIN:
            labels.append(call.label)
            call = call.before
        if call is not None:
            labels.append("...")
        return " -> ".join(reversed(labels))

    @property
    def handled(self) -> bool:
        """True if other code gets its failure, so that the log need not."""
        return False

    def first_to_fail(self) -> Call:
        """The call whose error this one passes on; itself, if the error is its own.

        An error that a ``catch()`` raises again is its own.
        """
        first: Call = self
        while first.before is not None and first._how != "catch":
            if first.before._error is not self._error:
                break
            first = first.before
        return first

    def unhandled(self) -> BaseException | None:
        """What it raised, if nobody has asked for its result."""
        return None if self._awaited else self._error

    def cancel(self: C) -> C | Literal[False]:
        """Do not run it. Returns the call, or False if it has started."""
        if self.take() is None:
            return False
        self.withdrawn = True
        if self.changed is not None:
            self.changed(self)
        return self

    def take(self) -> Invocation | None:
        """What is to be run, for the first thread to ask; None for all others.

        The call lets go of it, and of its context when its end is told, as the app may
        keep the call for longer. So one that is given up is taken, too.
        """
        try:
            return self._waiting.pop()
        except IndexError:
            return None

    def start(self) -> Invocation | None:
        """As ``take()``, to run it at once. None, too, if it was lost meanwhile."""
        try:
            invocation = self._waiting.pop()  # take(), without a frame more
        except IndexError:
            return None
        if not self.untold:
            return None
        self._thread = threading.get_ident()
        self.started_at = monotonic()
        if self.before is not None:
            context, fn, _, kwargs = invocation
            return context, continue_after, ([self.before], self._how, fn), kwargs
        return invocation

    def own_context(self) -> Context:
        """A copy of its context, since the call may be running in that."""
        context = self.context
        return Context() if context is None else context.copy()

    def claim_end(
        self, end: int, value: object = None, error: BaseException | None = None
    ) -> bool:
        """Note how it ended. True for the first thread to do so, which then tells the
        observers, and calls ``publish()``."""
        try:
            self.untold.pop()  # as in take()
        except IndexError:
            return False
        self.ended_at = monotonic()
        self._settle(end, value, error)
        return True

    def _settle(self, end: int, value: Any, error: BaseException | None) -> None:
        """Nobody asks how a held call has ended."""

    def publish(self) -> None:
        """Tell whoever waits for it. Nobody waits for a held call."""


class DeferredCall(Call, LazyFuture[T]):
    """A call that runs after the response, if the response is of the kind it wants.

    By default that is a status below 400 from an app that did not raise. You can change
    its options until it starts; the last setting wins.

    It is a ``concurrent.futures.Future``, too. If it never runs, because it was
    cancelled, skipped or lost, the future is cancelled. Its methods as a future are
    safe from any thread. Whatever waits for it inside its request runs it early, once:
    ``result()`` and ``exception()``, ``wait()`` and ``as_completed()`` of
    ``concurrent.futures``, and ``asyncio.wrap_future()``. Elsewhere they wait.
    """

    kind = "deferred"
    limit: float | None = None  # seconds; None if the middleware's holds
    _predicate: Callable[[Outcome], object] | None = None
    _followed = False

    def always(self) -> DeferredCall[T]:
        """Run it whatever became of the response."""
        return self.when(always)

    def on_failure(self) -> DeferredCall[T]:
        """Run it only if the status is 400 or above, or the app raised."""
        return self.when(not_ok)

    def when(self, predicate: Callable[[Outcome], object]) -> DeferredCall[T]:
        """Run it only if ``predicate(outcome)`` is true, asked just before it would.

        A predicate that raises is logged, and the call does not run.
        """
        if not callable(predicate):
            kind = type(predicate).__name__
            raise TypeError(f"when() takes a function of the Outcome, not {kind}")
        self._predicate = predicate
        return self

    def after_commit(self, session: object) -> DeferredCall[T]:
        """Run it only if that session of SQLAlchemy commits what it is doing now.

        If it is doing nothing, its next transaction counts. A rollback drops the call,
        also one to a savepoint that is open now. Of several sessions, each must commit.
        It may be a ``scoped_session``. Raises ``TypeError`` for anything else.
        """
        from .._runtime import commits  # few need it

        box = self.uncommitted = self.uncommitted or []
        commits.wait_for(session, box.pop, self._note_rollback)
        box.append(True)
        return self

    def _note_rollback(self) -> None:
        self.why_withdrawn = "its session has rolled back"
        self.cancel()

    def time_limit(self, seconds: float) -> DeferredCall[T]:
        """End it after ``seconds``, with ``TimeLimitError`` as its failure.

        It can be ended on the main thread of the process, which is where gunicorn's
        sync worker runs it, and in gunicorn's gevent workers while it waits for
        something. It cannot be ended inside C code, on other threads, or if the app
        uses ``SIGALRM`` itself: then the log says that it keeps running. This limit
        replaces the middleware's; ``math.inf`` means no limit. Until it is reached,
        gunicorn does not take the worker for stuck, even past gunicorn's ``timeout``.
        A call that runs early inside a call with a limit is ended with that one.

        The error is raised at any line, as for Ctrl-C, but not inside ``threading``,
        ``queue``, ``logging``, ``concurrent.futures``, queues and locks of
        ``multiprocessing``, pools of database connections, engines of jobs, and the
        tool coverage: it is raised at the next line outside, so that no lock stays
        taken. Where a call waits there for another thread, as in ``queue.get()``,
        ``Event.wait()`` and ``Future.result()``, it is ended at once; for another
        process, it is not. If it stays there for another reason, the log says 0.3
        seconds later that it keeps running. In code of your own, take a lock by
        ``with lock:``; after ``lock.acquire()``, the error may come before the ``try``.

        Its ``except`` and ``finally`` blocks have ``time_limit_grace`` seconds, 5 by
        default; after that, they are ended, too. Under gevent, nothing ends them.
        """
        self.limit = check_seconds("time_limit", seconds)
        return self

    def wants(self, outcome: Outcome) -> bool:
        """Tell whether it runs after such a response.

        A call that follows another runs if that one did, unless its options say
        otherwise.
        """
        call: DeferredCall = self
        while call._predicate is None and call.before is not None:
            call = call.before
            if call.done():
                return not call.cancelled()
        predicate = call._predicate
        context = self.own_context()
        del self, call  # frame cycle
        return (
            outcome.ok if predicate is None else bool(context.run(predicate, outcome))
        )

    @overload
    def then(self, fn: Callable[[T], Async[U]]) -> DeferredCall[U]: ...

    @overload
    def then(self, fn: Callable[[T], U]) -> DeferredCall[U]: ...

    def then(self, fn: Callable[[T], Any]) -> DeferredCall[Any]:
        """Defer ``fn(result)`` of this call; returns the new call.

        If this one fails, the new one fails with the same error and ``fn`` is not
        called. Raises ``TypeError`` if ``fn`` is not callable, and what ``defer()``
        raises.
        """
        return self._follow("then", fn, sys._getframe(1))

    @overload
    def catch(self, fn: Callable[[Any], Async[U]]) -> DeferredCall[T | U]: ...

    @overload
    def catch(self, fn: Callable[[Any], U]) -> DeferredCall[T | U]: ...

    def catch(self, fn: Callable[[Any], Any]) -> DeferredCall[Any]:
        """Defer ``fn(error)``, which is called if this call, or one before it, fails.

        The result of the new call is that of ``fn``, or of this call if nothing failed.
        Raises what ``then()`` raises.
        """
        return self._follow("catch", fn, sys._getframe(1))

    def finally_(self, fn: Callable[[], object]) -> DeferredCall[T]:
        """Defer ``fn()``, which is called whether this call returns or fails.

        The new call ends as this one does, unless ``fn`` raises. Raises what ``then()``
        raises.
        """
        return self._follow("finally_", fn, sys._getframe(1))

    def _follow(
        self, how: str, fn: Callable[..., object], registered_by: FrameType
    ) -> DeferredCall:
        if not callable(fn):
            raise TypeError(f"{how}() takes a function, not {type(fn).__name__}")
        check_no_generator(fn, how)
        if self.home is None:
            raise RuntimeError(f"{how}() is for calls that defer() has returned")
        call = DeferredCall(fn, (), _NO_KWARGS, registered_by)
        call.before, call._how = self, how
        followed, self._followed = self._followed, True
        try:
            self.home.add(call, how)
        except BaseException:
            self._followed = followed
            raise
        return call

    @property
    def handled(self) -> bool:
        return self._followed or self._awaited

    def cancel(self) -> DeferredCall[T] | Literal[False]:  # type: ignore[override]
        """Do not run it. Returns the call, or False if it has started."""
        if Call.cancel(self):
            self._settle(CANCELLED)
            self.publish()
            return self
        return self if self.cancelled() else False

    def running(self) -> bool:
        """True while it runs."""
        return self.started_at is not None and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """What it returned; raises what it raised.

        Inside its request, a call that has not started runs now, once, after those that
        it follows; the outcome of the response does not matter. Elsewhere, this waits
        for it, for at most ``timeout`` seconds, and then raises
        ``concurrent.futures.TimeoutError``. Raises ``CancelledError`` if it will never
        run, and ``WaitsForItselfError`` inside the call itself.
        """
        try:
            self._await(timeout)
            if self._settled_as == RETURNED:
                return self._value
            if self._error is not None:
                raise self._error
            raise CancelledError
        finally:
            self = None  # type: ignore[assignment]  # frame cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or None if it returned; otherwise as ``result()``."""
        try:
            self._await(timeout)
            if self._settled_as == CANCELLED:
                raise CancelledError
            return self._error
        finally:
            del self  # frame cycle

    def _await(self, timeout: float | None) -> None:
        if self._settled_as != PENDING:
            return
        awaited, self._awaited = self._awaited, True  # so that its error is not logged
        try:
            self.about_to_wait()
            if self._settled_as == PENDING:
                Future.exception(self, timeout)
        except CancelledError:
            pass
        except (FutureTimeout, WaitsForItselfError):
            self._awaited = awaited
            raise
        finally:
            del self  # frame cycle

    def about_to_wait(self) -> None:
        try:
            if self._settled_as == PENDING and self.home is not None:
                self.home.bring_about(self)
            if self.running() and runs_here(self._thread):
                raise WaitsForItselfError(self.chain)
        finally:
            del self  # frame cycle

    _settle = LazyFuture._settle
    publish = LazyFuture.publish

    def take_end(self, caught: bool) -> tuple[int, Any, BaseException | None]:
        """How it ended. If ``caught``, the call that follows it deals with an error."""
        if caught and self._error is not None:
            self.first_to_fail().logged = True
        return self._settled_as, self._value, self._error

    def __repr__(self) -> str:
        state = ("pending", "finished", "failed", "cancelled")[self._settled_as]
        return f"<DeferredCall {self.label}: {state}>"
