"""``captured()``: deferred calls are put on a list, and do not run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Any, overload

from .. import background
from .._calls.call import Call, DeferredCall
from .._calls.drain import drain, is_wanted
from .._calls.outcome import Outcome
from .._calls.scope import Scope
from .._calls.switch import Mode
from .._request.exchange import Exchange
from ..observers._observers import observe_process, stop_observing
from ._block import WAIT, enter_block, leave_block
from ._failures import Failures
from ._record import CallRecord, as_code


@contextmanager
def captured() -> Iterator[Captured]:
    """Inside the block, no deferred call runs; each is put on its list instead.

    The list has the calls that would have run, in their order: what the status, names
    and options drop is in ``skipped``. A response that nobody has closed counts as
    ended once it has started, when the list is looked at. Calls of
    ``before_response()`` run as ever, and so does a call whose ``result()`` the view
    needs. Nothing is handed to the background thread. For all threads of the process.
    """
    capture = _Capture()
    enter_block(capture)
    observe_process(capture.heard)
    try:
        yield Captured(capture)
    finally:
        capture.finish()
        stop_observing(capture.heard)
        leave_block(capture)
        capture.drop()


class Captured(Sequence[CallRecord]):
    """The calls that would have run, in their order, as ``CallRecord`` objects.

    It stays as it is when the block has ended.
    """

    def __init__(self, capture: _Capture) -> None:
        self._capture = capture

    @overload
    def __getitem__(self, index: int) -> CallRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[CallRecord]: ...

    def __getitem__(self, index: Any) -> Any:
        return self._capture.look()[index]

    def __len__(self) -> int:
        return len(self._capture.look())

    def __repr__(self) -> str:
        return f"<Captured {[each.text for each in self]}>"

    @property
    def skipped(self) -> Sequence[CallRecord]:
        """The calls that the outcome or a name dropped, or the app itself, and ``why``.

        They have an ``outcome``, too.
        """
        self._capture.look()
        return tuple(self._capture.skipped)

    def run(self) -> None:
        """Run what is captured, and what that defers, as after the response.

        Each call runs once. When all have run, this raises the first error, as it was.
        Inside the block only.
        """
        self._capture.run()

    def assert_deferred(
        self,
        fn: Callable[..., object],
        *args: Any,
        times: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Fail unless ``fn`` would have run; with these arguments, if any are given.

        ``times`` is how often, exactly. For a function that has an argument of that
        name itself, look at ``kwargs`` of the calls.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        calls = [call for call in self if call.fn == fn]
        if args or kwargs:
            calls = [
                call for call in calls if call.args == args and call.kwargs == kwargs
            ]
        if len(calls) == times or (times is None and calls):
            return
        what = as_code(fn, args, kwargs) if args or kwargs else as_code(fn, (), {})[:-2]
        often = {None: "", 1: " once"}.get(times, f" {times} times")
        found = "" if times is None else f", but {len(calls)} times"
        raise AssertionError(f"{what} was not deferred{often}{found}.\n{self._all()}")

    def assert_nothing_deferred(self) -> None:
        """Fail if any call would have run."""
        __tracebackhide__ = True
        if self:
            raise AssertionError(f"Calls were deferred.\n{self._all()}")

    def _all(self) -> str:
        lines = ["Deferred:", *(f"  {call.text}" for call in self)]
        if len(lines) == 1:
            lines = ["Nothing was deferred."]
        if self.skipped:
            lines.append("Skipped:")
            lines += [f"  {call.text}: {call.why}" for call in self.skipped]
        return "\n".join(lines)


class _Capture(Mode):
    """The switch of one ``captured()`` block, and what it has kept.

    The calls stay in their scopes, pending. So the gate, order, names and nesting are
    those of the scopes, and ``run()`` is the drain itself.
    """

    holds = True

    def __init__(self) -> None:
        self.heard = _Heard(self)
        self.skipped: list[CallRecord] = []
        self.known: dict[Call, CallRecord] = {}  # whatever was deferred
        self._lock = threading.RLock()
        # The scopes that have ended, or have answered and are not closed, in order.
        self._kept: dict[Scope, dict[Call, CallRecord]] = {}
        self._outcomes: dict[Scope, Outcome] = {}
        self._runner = 0  # the thread in which run() is at work
        self._over = False

    def take(self, scope: Scope, outcome: Outcome) -> bool:
        if threading.get_ident() == self._runner:
            return False
        with self._lock:
            self._settle_unclosed(before=scope)
            self._settle(scope, outcome)
            scope.shut()
        scope.abandon_guests()
        return True

    def look(self) -> list[CallRecord]:
        """What would have run, of all responses that have ended or started."""
        if not self._over:
            background.join(WAIT)
            with self._lock:
                self._settle_unclosed()
        return [call for kept in self._kept.values() for call in kept.values()]

    def _settle_unclosed(self, before: Scope | None = None) -> None:
        for scope in self.heard.opened.unclosed():
            if scope is before:
                break
            if scope.started:
                self._settle(scope, _outcome_so_far(scope))

    def _settle(self, scope: Scope, outcome: Outcome) -> None:
        """Ask its calls whether they run after that, as the drain does."""
        kept = self._kept.setdefault(scope, {})
        as_before = _is_same(self._outcomes.get(scope), outcome)
        self._outcomes[scope] = outcome
        scope.outcome = outcome
        wanted: list[DeferredCall] = []
        while (call := scope.take()) is not None:
            record = self.record(call)
            if (as_before and call in kept) or is_wanted(call, scope, outcome):
                wanted.append(call)
                kept[call] = replace(record, outcome=outcome, became="captured")
        scope.deferred.update(dict.fromkeys(wanted))

    def record(self, call: Call) -> CallRecord:
        """The call with its arguments, and the name that it has by now."""
        record = self.known.get(call)
        if record is None:  # it was deferred before the block
            record = self.known[call] = CallRecord.of(call)
        return replace(record, name=call.name)

    def note_skipped(self, call: Call, scope: Scope, why: str) -> None:
        """It does not run after all."""
        self._kept.get(scope, {}).pop(call, None)
        record = self.record(call)
        self.skipped.append(
            replace(record, outcome=scope.outcome, became="skipped", why=why)
        )

    def note_started(self, call: Call, scope: Scope) -> None:
        """``run()`` runs it."""
        if threading.get_ident() == self._runner:
            kept = self._kept.setdefault(scope, {})
            if call not in kept:
                record = self.record(call)
                kept[call] = replace(record, outcome=scope.outcome, became="captured")

    def run(self) -> None:
        """See ``Captured.run()``."""
        if self._over:
            raise RuntimeError(
                "run() was called after the end of captured(), which has dropped its "
                "calls. Call it inside the block."
            )
        self.look()
        before, self._runner = self._runner, threading.get_ident()
        try:
            for scope in list(self._kept):
                closed, scope.closed = scope.closed, False
                drain(scope, self._outcomes[scope])
                scope.closed = closed  # a stream that is open may defer more
        finally:
            self._runner = before
        for found in self.heard.take():
            if found.error is not None and isinstance(found.call, DeferredCall):
                raise found.error

    def finish(self) -> None:
        """The block ends: look for the last time."""
        self.heard.opened.wait_for_answers()
        self.look()
        self._over = True

    def drop(self) -> None:
        """Let go of the calls, so that none of them ever runs."""
        for scope in self._kept:
            for call in list(scope.deferred):
                if scope.deferred.pop(call, call) is None:
                    scope.skip(call, "a test captured it")


class _Heard(Failures):
    """Hears of calls for a ``_Capture``."""

    mode: _Capture

    def queued(self, call: Call, scope: Scope) -> None:
        super().queued(call, scope)
        if self.decides:
            self.mode.known[call] = CallRecord.of(call)

    def started(self, call: Call, scope: Scope) -> None:
        if self.decides and isinstance(call, DeferredCall):
            self.mode.note_started(call, scope)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        super().skipped(call, scope, why)
        if self.decides and isinstance(call, DeferredCall):
            self.mode.note_skipped(call, scope, why)


def _outcome_so_far(scope: Scope) -> Outcome:
    """How a response that has started will end, unless its body or its client fails."""
    assert isinstance(scope, Exchange)
    duration = monotonic() - scope._began
    return Outcome(scope._code(), scope._error, delivered=True, duration=duration)


def _is_same(before: Outcome | None, now: Outcome) -> bool:
    """Whether nothing has changed but the time."""
    return before is not None and before == now._replace(duration=before.duration)
