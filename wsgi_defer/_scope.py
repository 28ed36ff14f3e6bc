"""One request's calls, and the functions that views use to add to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from ._call import Around, Call, DeferredCall, check_seconds
from ._future import CANCELLED
from ._observer import Observers
from ._outcome import Outcome
from ._pool_kinds import Pools, checked_pools
from .errors import (
    NoScopeError,
    ResponseStartedError,
    ScopeClosedError,
    TooManyCallsError,
)

MAX_CALLS = 1000
P = ParamSpec("P")
C = TypeVar("C", bound=Call)


class Room(Protocol):
    """Where the calls of many scopes wait, and which may be full."""

    def admit(self, call: Call, scope: Scope) -> None:
        """Take one more, or raise ``TooManyWaitingError``."""


class Guest(Protocol):
    """What lives no longer than a request: a job of a pool, for one."""

    def end(self, why: str) -> None:
        """Whoever may await it has ended. Raises nothing but an order to stop."""


class Options(NamedTuple):
    """What the scopes of one middleware have in common, see ``DeferMiddleware``."""

    max_calls: int = MAX_CALLS
    around: Around | None = None
    inline: bool | None = None
    gives_way: bool = False  # to a client that waits: the rest goes to the background
    observers: Observers = Observers()
    time_limit: float | None = None
    slow_after: float | None = None
    room: Room | None = None
    pools: Pools | None = None  # by name once checked

    def checked(self) -> Options:
        """Refuse what would fail later, at the first call; return the options."""
        if self.max_calls < 1:
            raise ValueError(f"max_calls must be at least 1, not {self.max_calls}")
        if self.around is not None and not callable(self.around):
            kind = type(self.around).__name__
            raise TypeError(
                f"around must return a context manager when called, not {kind}"
            )
        if self.time_limit is not None:
            check_seconds("time_limit", self.time_limit)
        if self.slow_after is not None:
            check_seconds("slow_after", self.slow_after)
        if self.pools is None:
            return self
        return self._replace(pools=checked_pools(self.pools))


_DEFAULTS = Options()


class Scope:
    """The calls of one request, in order, until they have run.

    ``finished``, ``failed``, ``skipped`` and ``lost`` count what became of them;
    skipped ones are those that the outcome did not want, that were cancelled, or that
    gave way to a later call of the same name. Adding a call is safe from any thread.
    """

    # On the class, because a scope is made for every request and few use these.
    closed = False  # the calls have run; no more are taken
    started = False  # the response is on its way
    answers = False  # there is a response to come
    stopped = False  # an order to stop has ended it
    registered = 0
    finished = 0
    failed = 0
    skipped = 0
    lost = 0
    running: Call | None = None
    outcome: Outcome | None = None  # how the response ended, when it has
    _early: list[Call] = ()  # type: ignore[assignment]  # run before their turn
    _outer: Scope | None = None  # around this one, in deferring()
    _process = 0
    # With the process that each is of. The scope's own dict from the first one on.
    _guests: dict[Guest, int] = {}  # noqa: RUF012

    def __init__(self, options: Options = _DEFAULTS) -> None:
        self.options = options
        self._held: list[Call] = []
        self._deferred: list[DeferredCall] = []

    @property
    def request_id(self) -> str:
        """What logs call the request; empty without one."""
        return ""

    @property
    def pending(self) -> tuple[Call, ...]:
        """The calls that still wait, in their order."""
        return tuple(call for call in (*self._held, *self._deferred) if call.pending)

    def hold(self, call: Call, function: str) -> None:
        """Take a call for before the response; raises as ``before_response()``."""
        self._append(call, self._held, function)

    def _append(self, call: C, calls: list[C], function: str) -> None:
        options = self.options
        if self.registered >= options.max_calls:
            raise TooManyCallsError(options.max_calls)
        if options.room is not None and calls is self._deferred:
            options.room.admit(call, self)
        if not self.registered:
            self._process = os.getpid()
        # In this order, for the sake of other threads: who ends the scope sets the
        # flag, and then looks for calls once more. Either it has seen this one, or
        # this one is still here. The same goes for the start of the response.
        self.registered += 1
        try:
            if options.observers.queued:
                options.observers.tell(options.observers.queued, call, self)
            call._home = self
            calls.append(call)
        except BaseException as error:  # an order to stop
            self.lose(call, f"{function}() was interrupted by {type(error).__name__}")
            raise
        late = self.closed or (self.started and calls is self._held)
        if late and call in calls:
            calls.remove(call)
            self.registered -= 1
            self._tell_skipped(call, "it came too late")
            raise ScopeClosedError(function) if self.closed else ResponseStartedError

    def add_guest(self, guest: Guest, function: str) -> None:
        """Tell it when this scope has closed. Raises ``ScopeClosedError``."""
        self.__dict__.setdefault("_guests", {})[guest] = os.getpid()
        if self.closed:  # in this order, as in _append()
            self.remove_guest(guest)
            raise ScopeClosedError(function)

    def remove_guest(self, guest: Guest) -> None:
        """It has ended before."""
        self._guests.pop(guest, None)

    def end_guests(self) -> None:
        """The scope has closed: so do its guests, the last one first."""
        while self._guests:
            try:  # others leave by themselves meanwhile
                guest, process = self._guests.popitem()
            except KeyError:
                return
            if process == os.getpid():  # else it is the parent's to end
                guest.end("the request has ended")

    def add(self, call: DeferredCall, function: str) -> None:
        """Take a call that is deferred by ``function``; raises as ``defer()``."""
        self._append(call, self._deferred, function)

    def bring_about(self, call: DeferredCall) -> None:
        """Run a call that waits, now, and first those that it follows.

        No effect outside its request, or on those that have begun.
        """
        current = get_current()
        while current is not self:
            if current is None:
                return
            current = current._outer
        if self._process != os.getpid():  # it is the parent's to run
            return
        chain = [call]
        del call  # what it raises may lead back to here
        while (before := chain[-1]._before) is not None and not before.done():
            chain.append(before)
        while chain:
            self._run_early(chain.pop())

    def _run_early(self, call: DeferredCall) -> None:
        early: list[Call] = self.__dict__.setdefault("_early", [])
        early.append(call)  # so that it is always either here or there
        try:
            try:
                place = self._deferred.index(call)
                self._deferred.remove(call)  # atomic: one of many threads has it
            except (ValueError, AttributeError):
                return
            for other in self._deferred[:place]:
                if call._name is not None and other._name == call._name:
                    other.cancel()
            if not call.pending:
                self.skip(call, "it was cancelled")
            elif call._before is not None and call._before.cancelled():
                self.skip(call, "the call that it follows did not run")
            else:
                self.run_call(call, self)
        except BaseException as error:
            self.lose(call, f"interrupted by {type(error).__name__}")
            raise
        finally:
            early.remove(call)
            del call  # it keeps what it raised, which leads back to here

    def under_way(self) -> list[Call]:
        """The calls that run just now, in any thread."""
        running = [] if self.running is None else [self.running]
        return [*running, *self._early]

    # How a call is run is on the floor above, which puts it here.
    run_call: Callable[[DeferredCall, Scope], None]

    def __del__(self) -> None:
        # The last net: a server that drops the response leads here. A child process
        # has copies of its parent's calls, and they are not its own to run.
        if self.registered and not self.closed and self._process == os.getpid():
            self.dropped()

    def dropped(self) -> None:
        """Nobody is left to run the calls."""
        self.lose_rest("its scope was dropped")

    def skip(self, call: Call, why: str) -> None:
        """Do not run it, which is as it should be. No effect if its end was told."""
        if self._tell_skipped(call, why):
            self.skipped += 1

    def _tell_skipped(self, call: Call, why: str) -> bool:
        call.take()
        if not call._claim_end(CANCELLED):
            return False
        heard = self.options.observers
        heard.tell(heard.skipped, call, self, why)
        call._publish()
        return True

    def lose(self, call: Call, why: str) -> None:
        """Do not run it, which somebody should know. No effect if its end was told."""
        call.take()
        if call._claim_end(CANCELLED):
            self.lost += 1
            heard = self.options.observers
            heard.tell(heard.lost, call, self, why)
            call._publish()

    def lose_rest(self, why: str) -> None:
        """Nobody is left to run what waits."""
        held: list[Call] = self._held
        for calls in (held, self._deferred):
            for call in calls.copy():
                # Whoever takes it off the list tells its end: this, or another thread
                # that has just begun it.
                with suppress(ValueError):
                    calls.remove(call)  # type: ignore[arg-type]
                    if call._cancelled:
                        self.skip(call, "it was cancelled")
                    else:
                        self.lose(call, why)

    def drop(self, call: Call, why: str) -> None:
        """Lose a deferred call, unless it has begun."""
        with suppress(ValueError):  # as in lose_rest()
            self._deferred.remove(call)  # type: ignore[arg-type]
            self.lose(call, why)

    def forget(self, name: str) -> None:
        """Cancel every call of that name that has not begun."""
        for call in self.pending:
            if call.name == name:
                call.cancel()

    def take_held(self) -> Call | None:
        """The next call to run before the response; None when there is none."""
        return self._next_of(self._held)

    def take(self) -> DeferredCall | None:
        """The next call to run after the response; None when there is none."""
        return self._next_of(self._deferred)

    def _next_of(self, calls: list[C]) -> C | None:
        while calls:
            try:
                # Always either here or there: an order to stop may come at any line.
                self.running = call = calls[0]
                calls.remove(call)
            except (IndexError, ValueError):  # another thread has it, _run_early()
                continue
            if not call._contexts:
                self.skip(call, "it was cancelled")
            elif call._name is not None and _is_renewed(call, calls):
                self.skip(call, "a later call has its name")
            else:
                return call
        self.running = None
        return None


def _is_renewed(call: Call, later: Sequence[Call]) -> bool:
    # A copy, because another thread may add to it.
    return any(other.name == call.name and other.pending for other in list(later))


_current: ContextVar[Scope | None] = ContextVar("wsgi_defer.scope", default=None)
# Bound once: looked up on the variable, each costs twice as much, at every step.
get_current = _current.get
enter = _current.set
leave = _current.reset


def current_scope() -> Scope | None:
    """The scope of the request being handled here; None outside a request."""
    return get_current()


def defer(
    fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
) -> DeferredCall:
    """Run ``fn(*args, **kwargs)`` after the client has its response, in this process.

    The call runs at most once, after those deferred before it, in the
    ``contextvars`` context of this line, and only if the final status is below 400
    and the app did not raise; options on the returned call say otherwise. An error
    in it is logged. If ``fn`` returns a coroutine, it runs to its end. Works from any
    thread that carries the request's context.

    Raises ``TypeError`` if ``fn`` is not callable, ``NoScopeError`` outside a
    request, ``ScopeClosedError`` after its end, ``TooManyCallsError`` over the limit.
    """
    if not callable(fn):
        raise _not_callable(fn, "defer")
    scope = get_current()
    if scope is None:
        raise NoScopeError("defer")
    call = DeferredCall(fn, args, kwargs, sys._getframe(1))
    scope._append(call, scope._deferred, "defer")
    return call


def before_response(
    fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
) -> Call:
    """Run ``fn(*args, **kwargs)`` just before the response starts, if it is a success.

    A status of 400 or above discards the call. If it raises, the client gets a plain
    503 in place of the response, the held calls after it are discarded, and so are
    the deferred calls that wait for a success. Meant for handing work to a queue
    (``before_response(task.delay, 42)``): nothing is queued for a failed request, and
    the client is told of nothing that was not queued.

    Raises what ``defer()`` raises, and ``ResponseStartedError`` when the response has
    begun. An app that sends its body with ``write()`` must call this before
    ``start_response()``.
    """
    if not callable(fn):
        raise _not_callable(fn, "before_response")
    scope = get_current()
    if scope is None:
        raise NoScopeError("before_response")
    call = Call(fn, args, kwargs, sys._getframe(1))
    scope.hold(call, "before_response")
    return call


def forget(name: str) -> None:
    """Cancel the request's calls of that name that have not begun, if there are any.

    Raises ``NoScopeError`` outside a request.
    """
    scope = get_current()
    if scope is None:
        raise NoScopeError("forget")
    scope.forget(name)


def _not_callable(fn: object, function: str) -> TypeError:
    return TypeError(
        f"{function}() takes a function and its arguments, as in {function}(send, to); "
        f"the first argument is {type(fn).__name__}, which cannot be called"
    )
