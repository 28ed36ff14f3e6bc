"""A scope: the calls of one request, and what became of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from typing import Protocol, TypeVar

from .._runtime import forks, report
from .._runtime.stop_orders import is_order_to_stop
from ..errors import ResponseStartedError, ScopeClosedError, TooManyCallsError
from . import switch
from .call import Call, DeferredCall
from .future import CANCELLED
from .options import DEFAULTS, Options
from .outcome import Outcome
from .run import run_now

C = TypeVar("C", bound=Call)
NOT_FOLLOWED = "the call that it follows did not run"


class Guest(Protocol):
    """What lives no longer than its request, such as a task of a pool."""

    def abandon(self, why: str) -> None:
        """Nobody can await it any more. Raises nothing but an order to stop."""


class Scope:
    """The calls of one request, in order, until they have run.

    ``finished``, ``failed``, ``skipped`` and ``lost`` count what became of them.
    Skipped are those that did not want the outcome, that were cancelled, or that a
    later call of the same name replaced. Calls may be added from any thread.
    """

    # On the class, because every request makes a scope, and few set these.
    closed = False  # the calls have run; it accepts no more
    started = False  # the response is on its way
    answers = False  # a response is to come
    stopped = False  # an order to stop has ended it
    registered = 0
    finished = 0
    failed = 0
    skipped = 0
    lost = 0
    running: Call | None = None
    outcome: Outcome | None = None  # how the response ended, when it has
    sent_at: float | None = None  # when the server was done with the body
    outer: Scope | None = None  # around this one, in deferring()
    # Each with its process. The scope has a dict of its own from the first one on.
    guests: dict[Guest, int] = {}  # noqa: RUF012
    _early: list[Call] = ()  # type: ignore[assignment]  # calls run before their turn
    # By kind and name: the named calls as a heap, the one registered last on top.
    _names: dict[tuple[str, str | None], list[tuple[float, int, Call]]] = {}  # noqa: RUF012
    _turns: list[Call] = ()  # type: ignore[assignment]  # the next calls, last one first
    process = 0  # that of its calls
    thread = 0  # that of the code that registers them, if noted
    forked = False  # this is a copy, in a process that the view or a call has forked

    def __init__(self, options: Options = DEFAULTS, outer: Scope | None = None) -> None:
        self.options = options
        # Dicts for their order, and to take a call out from any place at once.
        self.held: dict[Call, None] = {}
        self.deferred: dict[DeferredCall, None] = {}
        if outer is not None:
            self.outer = outer

    @property
    def request_id(self) -> str:
        """What logs call the request; empty without one."""
        return ""

    @property
    def pending(self) -> tuple[Call, ...]:
        """The calls that still wait, in order."""
        return tuple(call for call in (*self.held, *self.deferred) if call.pending)

    def complete_options(self, options: Options) -> None:
        """Fill gaps in its options with those of a middleware inside of it."""
        self.options = self.options.completed_by(options)

    def hold(self, call: Call, function: str) -> None:
        """Add a call that runs before the response; raises as ``before_response()``."""
        self.append(call, self.held, function)

    def add(self, call: DeferredCall, function: str) -> None:
        """Add a call that ``function`` defers; raises as ``defer()``."""
        self.append(call, self.deferred, function)

    def append(self, call: C, calls: dict[C, None], function: str) -> None:
        """Add a call to one of the two dicts of this scope."""
        options = self.options
        if self.registered >= options.max_calls:
            raise TooManyCallsError(options.max_calls)
        if options.room is not None and calls is self.deferred:
            options.room.admit(call, self)
        if not self.registered:
            self.process = forks.process
        # The order matters to other threads: the one that ends the scope sets the flag,
        # and then looks for calls once more. Either it has seen this call, or the call
        # is still here. The same goes for the start of the response.
        self.registered += 1
        try:
            if options.observers.queued:
                options.observers.tell(options.observers.queued, call, self)
            call.home = self
            calls[call] = None
        except BaseException as error:  # an order to stop
            self.lose(call, f"{function}() was interrupted by {type(error).__name__}")
            raise
        late = self.closed or (self.started and calls is self.held)
        if late and calls.pop(call, call) is None:
            self.registered -= 1
            self._tell_skipped(call, "it came too late")
            raise ScopeClosedError(function) if self.closed else ResponseStartedError
        if switch.mode is not None and isinstance(call, DeferredCall):
            switch.mode.registered(call, self)

    def add_guest(self, guest: Guest, function: str) -> None:
        """Abandon it when this scope has closed. Raises ``ScopeClosedError``."""
        self.__dict__.setdefault("guests", {})[guest] = forks.process
        if self.closed:  # in this order, as in append()
            self.remove_guest(guest)
            raise ScopeClosedError(function)

    def remove_guest(self, guest: Guest) -> None:
        """It has ended by itself."""
        self.guests.pop(guest, None)

    def abandon_guests(self) -> None:
        """The scope has closed: abandon its guests, the last one first."""
        while self.guests:
            try:  # others may leave by themselves meanwhile
                guest, process = self.guests.popitem()
            except KeyError:
                return
            if process == forks.process:  # otherwise the parent does it
                guest.abandon("the request has ended")

    def bring_about(self, call: DeferredCall) -> None:
        """Run a call that still waits, after those that it follows, now.

        No effect outside its request, or on calls that have started.
        """
        current = get_current()
        while current is not self:
            if current is None:
                return
            current = current.outer
        if self.process != forks.process:  # the parent runs it
            return
        chain = [call]
        del call  # frame cycle
        while (before := chain[-1].before) is not None and not before.done():
            chain.append(before)
        while chain:
            self._run_early(chain.pop())

    def _run_early(self, call: DeferredCall) -> None:
        early: list[Call] = self.__dict__.setdefault("_early", [])
        early.append(call)  # first, so that it is always somewhere
        try:
            try:
                del self.deferred[call]  # atomic: one thread gets it
            except KeyError:
                return
            if call.name is not None:
                self._cancel_earlier(call)
            if not call.pending:
                self.skip(call, call.why_withdrawn)
            elif call.before is not None and call.before.cancelled():
                self.skip(call, NOT_FOLLOWED)
            else:
                run_now(call, self)
        except BaseException as error:
            self.lose(call, f"interrupted by {type(error).__name__}")
            raise
        finally:
            early.remove(call)
            del call  # frame cycle

    def under_way(self) -> list[Call]:
        """The calls that are running, in any thread."""
        running = [] if self.running is None else [self.running]
        return [*running, *self._early]

    def __del__(self) -> None:
        # The last safety net: a server that drops the response leads here. A child
        # process has copies of its parent's calls, which it must not run.
        if self.registered and not self.closed and self.process == forks.process:
            self.dropped()

    def dropped(self) -> None:
        """Nobody is left to run the calls."""
        self.lose_rest("its scope was dropped")

    def note_started(self) -> None:
        """The response is on its way: nothing can be held for it any more."""
        self.started = True

    def note_order(self, error: BaseException) -> None:
        """Note whether that error, which ended the view, was an order to stop."""
        self.stopped = is_order_to_stop(error)

    def shut(self) -> bool:
        """Accept no more calls. False if some are left, added at this moment."""
        self.closed = True
        if self.deferred:
            return False
        if self._names:
            self._names = {}  # frame cycle: the calls lead to the scope
        return True

    def conclude(
        self,
        call: Call,
        end: int,
        value: object = None,
        error: BaseException | None = None,
    ) -> None:
        """The call has returned, or raised: count it, and tell the observers.

        They, and callbacks of the app's, run in its context, for error trackers and
        filters of the log. No effect if another thread has told its end.
        """
        context = call.context
        if context is not None and call.claim_end(end, value, error):
            heard = self.options.observers
            if error is not None:
                self.failed += 1
                context.run(heard.tell, heard.failed, call, self, error)
            else:
                self.finished += 1
                if heard.finished:
                    context.run(heard.tell, heard.finished, call, self)
            try:
                if call.unpublished:
                    context.run(call.publish)
            except BaseException as raised:  # by a callback of the app's
                if is_order_to_stop(raised):
                    raise
                report.failure(
                    raised, "a callback of the deferred call %s failed", call.label
                )
            finally:
                call.context = None
        if self.running is call:
            self.running = None

    def skip(self, call: Call, why: str) -> None:
        """Do not run it, as intended. No effect if its end was told."""
        if self._tell_skipped(call, why):
            self.skipped += 1

    def _tell_skipped(self, call: Call, why: str) -> bool:
        call.take()
        context = call.own_context()
        if not call.claim_end(CANCELLED):
            return False
        self._tell_end(self.options.observers.skipped, call, context, why)
        return True

    def _tell_end(
        self,
        heard: tuple[Callable[..., object], ...],
        call: Call,
        context: Context,
        why: str,
    ) -> None:
        # Of a call that may run, or wait, in another context than this code.
        try:
            context.run(self.options.observers.tell, heard, call, self, why)
            call.publish()
        finally:
            call.context = None

    def lose(self, call: Call, why: str) -> None:
        """It does not run, or not to its end, which an operator should know.

        No effect if its end was told.
        """
        call.take()
        context = call.own_context()
        if call.claim_end(CANCELLED):
            self.lost += 1
            self._tell_end(self.options.observers.lost, call, context, why)

    def lose_rest(self, why: str) -> None:
        """Lose all calls that wait."""
        self._take_out(self.held, why)
        self._take_out(self.deferred, why)
        self._names, self._turns = {}, []

    def _take_out(self, calls: dict[C, None], why: str) -> None:
        for call in list(calls):
            # The thread that takes it out tells its end: this one, or one that has just
            # started it.
            if calls.pop(call, call) is None:
                if call.withdrawn:
                    self.skip(call, call.why_withdrawn)
                else:
                    self.lose(call, why)

    def drop(self, call: Call, why: str) -> None:
        """Lose a deferred call, unless it has started."""
        if self.deferred.pop(call, call) is None:  # type: ignore[call-overload]
            self.lose(call, why)

    def note_name(self, call: Call) -> None:
        """A call of this scope has a new name."""
        if self.closed:
            return
        names = self.__dict__.setdefault("_names", {})
        same = names.setdefault((call.kind, call.name), [])
        heappush(same, (-call.queued_at, id(call), call))

    def _is_replaced(self, call: Call) -> bool:
        """Whether a later call that is to run has the name of this one."""
        if call.uncommitted:  # it neither runs nor replaces
            return False
        same = self._names.get((call.kind, call.name), [])
        mine = (-call.queued_at, id(call), call)
        while same:
            last = heappop(same)
            if last[2].pending and last[2].name == call.name:
                heappush(same, last)
                return any(
                    each < mine
                    and each[2].pending
                    and not each[2].uncommitted  # it may commit yet, and stays
                    and each[2].name == call.name
                    for each in list(same)
                )
        return False

    def _cancel_earlier(self, call: Call) -> None:
        for _, _, other in list(self._names.get((call.kind, call.name), ())):
            earlier = other.queued_at <= call.queued_at and other is not call
            if earlier and other.name == call.name:
                other.cancel()

    def forget(self, name: str) -> None:
        """Cancel every call of that name that has not started."""
        for kind in (Call.kind, DeferredCall.kind):
            for _, _, call in list(self._names.get((kind, name), ())):
                if call.name == name:
                    call.cancel()

    def take_held(self) -> Call | None:
        """The next call to run before the response; None when there is none."""
        return self._next_of(self.held)

    def take(self) -> DeferredCall | None:
        """The next call to run after the response; None when there is none."""
        return self._next_of(self.deferred)

    def _next_of(self, calls: dict[C, None]) -> C | None:
        while calls:
            if not self._turns:
                self._turns = turns = list(calls)  # type: ignore[assignment]
                turns.reverse()
            while self._turns:
                # Always somewhere: an order to stop may come at any line.
                call: C = self._turns[-1]  # type: ignore[assignment]
                self.running = call
                self._turns.pop()
                try:
                    del calls[call]
                except KeyError:  # another thread took it, _run_early()
                    continue
                if not call._waiting:  # not pending
                    self.skip(call, call.why_withdrawn)
                elif self._names and call.name is not None and self._is_replaced(call):
                    self.skip(call, "a later call has its name")
                else:
                    return call
        self.running = None
        return None


_current: ContextVar[Scope | None] = ContextVar("wsgi_defer.scope", default=None)
# Bound once: to look them up on the variable costs as much again, at every step.
get_current = _current.get
enter = _current.set
leave = _current.reset


def _leave_scopes_behind() -> None:
    # In a process that was forked in a request or a call: the parent has the scopes.
    scope = get_current()
    if scope is not None:
        enter(None)
    while scope is not None:
        scope.forked = True
        scope = scope.outer


os.register_at_fork(after_in_child=_leave_scopes_behind)


def current_scope() -> Scope | None:
    """The scope of the request being handled here; None outside a request."""
    return get_current()
