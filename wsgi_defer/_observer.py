"""Who hears what becomes of each call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ._host import is_order_to_stop

if TYPE_CHECKING:
    from ._call import Call
    from ._scope import Scope

logger = logging.getLogger("wsgi_defer")


class Observer:
    """Hears what becomes of each call. Override what you want to hear.

    Every call is ``queued``, and has one end: ``finished``, ``failed``, ``skipped`` or
    ``lost``; none if the process is killed first, and then gunicorn's master names it.
    A method is called where it happens, in that thread, and should be quick; one that
    raises is logged, the first time. If a server drops a response, that may be inside
    the collector of garbage, so a lock of yours should be an ``RLock``. Calls of
    ``before_response()`` are heard of, too.

    The scope tells of the request: ``scope.request_id``, and from the end of the
    response on ``scope.outcome``, with the status, ``delivered``, and ``duration``; it
    is None before. The call has ``label``, ``origin``, ``waited`` and ``ran``.
    """

    def queued(self, call: Call, scope: Scope) -> None:
        """It was registered. Its options, such as the name, may be set later."""

    def started(self, call: Call, scope: Scope) -> None:
        """It begins to run."""

    def finished(self, call: Call, scope: Scope) -> None:
        """It has returned."""

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        """It raised ``error``, or the function that decides whether it runs did."""

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        """It did not run, as its options, or the outcome, would have it."""

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        """It did not run, or not to its end, because the process ends or is full."""

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        """It has run for ``seconds``, more than ``slow_after``, and runs on."""

    def overran(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        """It runs on past its time limit: nothing could end it, or not yet."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


class LoggingObserver(Observer):
    """Writes to the log ``wsgi_defer``, and never the arguments of a call.

    What skips a call is written at DEBUG, slow ones at WARNING, failed and lost ones
    at ERROR. The message of an exception is written with its traceback, as for any
    error in a view.
    """

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        if not call.handled:
            self._log_failure(call, scope, error)

    def _log_failure(self, call: Call, scope: Scope, error: BaseException) -> None:
        # Once for each failure, however many calls it runs down through.
        first: Call = call
        while first._before is not None and first._before._error is error:
            first = first._before
        if not first._logged:
            logger.error(
                "%s call %s failed; %s", call.kind, call.chain, _where(first, scope),
                exc_info=error,
            )  # fmt: skip
            first._logged = True

    def _log_what_it_would_have_handled(self, call: Call, scope: Scope) -> None:
        before = call._before
        if before is not None and before._error is not None and not before._awaited:
            self._log_failure(before, scope, before._error)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s call %s skipped: %s; %s",
                call.kind, call.label, why, _where(call, scope),
            )  # fmt: skip

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        ran = "" if call.ran is None else f" while it ran ({call.ran:.1f} s)"
        logger.error(
            "%s call %s lost%s: %s; %s",
            call.kind, call.label, ran, why, _where(call, scope),
        )  # fmt: skip

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        logger.warning(
            "%s call %s is slow, it has run for %.1f s; %s\n%s",
            call.kind, call.label, seconds, _where(call, scope), stack,
        )  # fmt: skip

    def overran(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        logger.warning(
            "%s call %s runs on past its time limit, %.1f s so far; %s\n%s",
            call.kind, call.label, seconds, _where(call, scope), stack,
        )  # fmt: skip


def _where(call: Call, scope: Scope) -> str:
    request = scope.request_id
    return (
        f"request {request}; from {call.origin}" if request else f"from {call.origin}"
    )


class Observers:
    """Several observers as one, those of the whole process among them.

    For each event there is a tuple of those who want to hear it, so that an event
    which nobody wants costs nothing.
    """

    queued: tuple[Callable[..., object], ...]
    started: tuple[Callable[..., object], ...]
    finished: tuple[Callable[..., object], ...]
    failed: tuple[Callable[..., object], ...]
    skipped: tuple[Callable[..., object], ...]
    lost: tuple[Callable[..., object], ...]
    slow: tuple[Callable[..., object], ...]
    overran: tuple[Callable[..., object], ...]

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._own = [*_OF_ALL, *observers]
        self._have_raised: set[object] = set()
        for observer in self._own:
            if not any(_hears(observer, event) for event in EVENTS):
                kind = type(observer).__name__
                raise TypeError(
                    f"an observer has methods such as finished() and failed(), see "
                    f"wsgi_defer.Observer; this one is {kind}, which has none"
                )
        self._sort()
        _all_groups.add(self)

    def _sort(self) -> None:
        for event in EVENTS:
            # The ledger first hears of a call, and last of its end: what stops us in
            # between leaves an entry in it, and not a call that nobody knows of.
            begins = event in ("queued", "started")
            everyone = (
                [*_of_process, *self._own] if begins else [*self._own, *_of_process]
            )
            heard_by = [each for each in everyone if _hears(each, event)]
            setattr(self, event, tuple(getattr(each, event) for each in heard_by))

    def tell(self, listeners: tuple[Callable[..., object], ...], *what: object) -> None:
        """Tell all of them, whatever one of them raises.

        An order to stop is raised when all have heard, the log twice if it was
        interrupted: better than not at all.
        """
        order: BaseException | None = None
        for listener in listeners:
            try:
                listener(*what)
            except BaseException as error:
                if not is_order_to_stop(error):
                    self._log_once(listener, error)
                    continue
                order = error
                if getattr(listener, "__self__", None) in _OF_ALL:
                    listener(*what)
        if order is not None:
            try:
                raise order
            finally:
                del order  # its traceback leads to this frame

    def _log_once(self, listener: Any, error: BaseException) -> None:
        owner = getattr(listener, "__self__", listener)
        key = (id(owner), getattr(listener, "__name__", ""))
        if key in self._have_raised:
            return
        self._have_raised.add(key)
        try:
            logger.error(
                "the observer %s raised in %s(); the calls are not affected, and this "
                "is logged once", type(owner).__qualname__, key[1], exc_info=error,
            )  # fmt: skip
        except Exception:
            pass


def _hears(observer: object, event: str) -> bool:
    method = getattr(observer, event, None)
    return (
        callable(method)
        and getattr(method, "__func__", None) is not vars(Observer)[event]
    )


# The ledger, in a worker that has one: put in once, when the worker begins.
_of_process: list[Observer] = []
_OF_ALL: tuple[Observer, ...] = (LoggingObserver(),)
_all_groups: WeakSet[Observers] = WeakSet()


def observe_process(observer: Observer) -> None:
    """Let it hear of every call in this process, from now on."""
    _of_process.append(observer)
    for group in list(_all_groups):
        group._sort()


def stop_observing(observer: Observer) -> None:
    """Let it hear no more. No effect if it heard nothing."""
    if observer in _of_process:
        _of_process.remove(observer)
        for group in list(_all_groups):
            group._sort()
