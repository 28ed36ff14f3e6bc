"""A future that costs next to nothing until somebody wants one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import _AcquireFutures
from operator import attrgetter
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    # So that nobody has to write DeferredCall[Any].
    T = TypeVarWithDefault("T", default=Any)
else:
    T = TypeVar("T")  # it takes a default since Python 3.13

PENDING, RETURNED, RAISED, CANCELLED = range(4)


class Made:
    """An attribute of ``Future`` that is made when something first asks for it.

    Then the instance has it, and this is not asked again. Not ``__getattr__``, which
    would make every attribute of the class three times as dear.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, kind: type | None = None) -> Any:
        if future is None:  # asked of the class, as pydoc does
            return self
        future._make()
        return future.__dict__[self._name]


class LazyFuture(Future[T]):
    """A ``concurrent.futures.Future`` without a lock, until somebody waits for it.

    Nobody ever waits for most deferred calls, and a lock costs more than the rest of
    one. So what ``Future`` keeps in its instances is made when something first asks
    for it: a method of ``Future``, or ``concurrent.futures.wait()``.
    """

    _state: Any = Made()
    _waiters: Any = Made()
    _done_callbacks: Any = Made()
    _result: Any = Made()
    _exception: Any = Made()
    queued_at = 0.0
    _settled_as = PENDING
    _value: T = None  # type: ignore[assignment]
    _error: BaseException | None = None
    # [True] while somebody may wait who has not been told of the result.
    unpublished: list[bool] = []  # noqa: RUF012  # always empty

    def __init__(self) -> None:
        """Without ``Future.__init__``, see above."""

    def _make(self) -> Any:
        # Without a lock of ours, which the garbage collector might find taken. Each
        # attribute keeps the value that the first thread gives it. The condition comes
        # last: whoever sees it may rely on the others.
        made = vars(Future())
        made["unpublished"] = [True]
        for key in sorted(made, key="_condition".__eq__):
            self.__dict__.setdefault(key, made[key])
        self.publish()
        return self.__dict__["_condition"]

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        """Whoever takes it is about to wait, and may be the one that holds it up.

        ``wait()`` and ``as_completed()`` take those of all their futures, by address.
        What they have so far is given back meanwhile, as calls run now: in the order of
        their registration.
        """
        futures = _taken_together(sys._getframe(1))
        taken = [
            each.__dict__["_condition"]
            for each in itertools.takewhile(lambda each: each is not self, futures)
        ]
        for condition in taken:
            condition.release()
        ours = [each for each in futures if isinstance(each, LazyFuture)] or [self]
        for each in sorted(ours, key=attrgetter("queued_at")):
            each.about_to_wait()
        for condition in taken:
            condition.acquire()
        return self.__dict__.get("_condition") or self._make()

    def about_to_wait(self) -> None:
        """Somebody may wait for it, in this thread."""

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(call)`` when it has ended, or now if it has.

        In the thread that ends it. An exception of ``fn`` is logged.
        """
        if getattr(fn, "__module__", None) == "asyncio.futures":  # wrap_future()
            self.about_to_wait()
        with self.__dict__.get("_condition") or self._make():
            if self._state in ("PENDING", "RUNNING"):
                self._done_callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def done(self) -> bool:
        """True when it has returned or raised, or will never run."""
        return self._settled_as != PENDING

    def cancelled(self) -> bool:
        """True if it will never run: cancelled, skipped or lost."""
        return self._settled_as == CANCELLED

    def _settle(
        self, end: int, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Note how it ended, if nothing is noted yet. ``publish()`` tells who waits."""
        if self._settled_as == PENDING:
            self._value, self._error = value, error
            # Last: another thread may be making the future at this moment.
            self._settled_as = end

    def publish(self) -> None:
        """Tell whoever waits that it has ended; no effect before that.

        The thread that ends it calls this, and so does each that looks at it. Only the
        first of them publishes.
        """
        unpublished = self.unpublished
        if self._settled_as == PENDING or not (unpublished and is_first(unpublished)):
            return
        if self._settled_as == RETURNED:
            Future.set_result(self, self._value)
        elif self._settled_as == RAISED:
            Future.set_exception(self, self._error)
        else:
            Future.cancel(self)
            self.set_running_or_notify_cancel()


def _taken_together(frame: FrameType) -> list[Any]:
    """The futures whose conditions that frame of ``concurrent.futures`` takes."""
    if frame.f_code is not _AcquireFutures.__enter__.__code__:
        return []
    return list(frame.f_locals["self"].futures)


def is_first(turn: list[bool]) -> bool:
    """True for the first thread to ask. ``turn`` is ``[True]``; ``pop()`` is atomic."""
    try:
        return turn.pop()
    except IndexError:
        return False
