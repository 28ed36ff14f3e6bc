"""Several observers as one, and those of the whole process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from .._runtime import events, report
from .._runtime.stop_orders import is_order_to_stop
from ._datadog import TraceKeeper, tracer
from ._log import LoggingObserver
from ._observer import EVENTS, Observer


class Observers:
    """Several observers as one, those of the whole process among them.

    For each event there is a tuple of the methods that hear it, so that an event which
    nobody wants costs nothing.
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
        if tracer() is not None:
            self._own.append(TraceKeeper())
        self._have_raised: set[object] = set()
        self._shows_finished = report.heard(events.FINISHED)
        for observer in self._own:
            _check(observer)
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
            # The ledger is the first to hear of a call, and the last to hear of its
            # end. A stop in between leaves an entry in it, not a call that nobody knows
            # of.
            begins = event in ("queued", "started")
            everyone = (
                [*_of_process, *self._own] if begins else [*self._own, *_of_process]
            )
            if event == "finished" and not self._shows_finished:
                everyone = [each for each in everyone if each not in _OF_ALL]
            heard_by = [each for each in everyone if _hears(each, event)]
            setattr(self, event, tuple(getattr(each, event) for each in heard_by))

    def look_at_log(self) -> None:
        """Before calls run: see whether the log is to show those that finish.

        Asked once for all calls of a request, as most logs show none of them.
        """
        shows = report.heard(events.FINISHED)
        if shows is not self._shows_finished:
            self._shows_finished = shows
            self._sort()

    def tell(self, listeners: tuple[Callable[..., object], ...], *what: object) -> None:
        """Tell all of them, even if one raises.

        An order to stop is raised when all have heard. If it interrupted the log, that
        hears the event again: twice is better than not at all.
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
                del order  # frame cycle

    def _log_once(self, listener: Any, error: BaseException) -> None:
        owner = getattr(listener, "__self__", listener)
        key = (id(owner), getattr(listener, "__name__", ""))
        if key in self._have_raised:
            return
        self._have_raised.add(key)
        kind = type(owner).__qualname__
        report.failure(
            events.OBSERVER_FAILED, error,
            "the observer %s raised in %s(); the calls are not affected, and "
            "this is logged once", kind, key[1],
            facts={"observer": kind, "method": key[1]},
        )  # fmt: skip


def _check(observer: object) -> None:
    """Refuse what would be deaf. Raises ``TypeError``."""
    if isinstance(observer, type):
        raise TypeError(
            f"an observer is an object: {observer.__name__}(), not the class itself"
        )
    for event in EVENTS:
        if hasattr(observer, event) and not callable(getattr(observer, event)):
            kind = type(getattr(observer, event)).__name__
            raise TypeError(
                f"{type(observer).__name__}.{event} is {kind}, and "
                f"hides the method {event}() of the observer; give it another name"
            )


def _hears(observer: object, event: str) -> bool:
    method = getattr(observer, event, None)
    return (
        callable(method)
        and getattr(method, "__func__", None) is not vars(Observer)[event]
    )


# The ledger, in a worker that has one. Added once, when the worker starts.
_of_process: list[Observer] = []
_OF_ALL: tuple[Observer, ...] = (LoggingObserver(),)
_all_groups: WeakSet[Observers] = WeakSet()


def observe_process(observer: Observer) -> None:
    """Have it hear of every call in this process, from now on."""
    _of_process.append(observer)
    for group in list(_all_groups):
        group._sort()


def stop_observing(observer: Observer) -> None:
    """Have it hear no more. No effect if it is not observing."""
    if observer in _of_process:
        _of_process.remove(observer)
        for group in list(_all_groups):
            group._sort()
