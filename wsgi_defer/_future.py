"""A future that costs next to nothing until somebody wants one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

PENDING, RETURNED, RAISED, CANCELLED = range(4)


class LazyFuture(Future[Any]):
    """A ``concurrent.futures.Future`` without a lock, until it is waited for.

    Most deferred calls are never waited for, and a lock costs more than all the rest
    of one. So what ``Future`` has in its instances is made when something first looks
    for it: a method of ``Future``, or ``concurrent.futures.wait()``.
    """

    _end = PENDING
    _value: Any = None
    _error: BaseException | None = None
    # One that is True, while somebody may wait who does not know of the end.
    _unpublished: list[bool] = []  # noqa: RUF012  # empty for ever

    def __init__(self) -> None:
        """Without ``Future.__init__``, see above."""

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not there.
        if name not in ("_condition", "_state", "_waiters", "_done_callbacks",
                        "_result", "_exception"):  # fmt: skip
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")
        # Without a lock of ours, which the collector of garbage might find taken. Each
        # has its value from the first thread; the condition, by which others see that
        # all is there, comes last.
        made = vars(Future())
        made["_unpublished"] = [True]
        for key in sorted(made, key="_condition".__eq__):
            self.__dict__.setdefault(key, made[key])
        self._publish()
        return self.__dict__[name]

    def done(self) -> bool:
        """True when it has returned or raised, or will never run."""
        return self._end != PENDING

    def cancelled(self) -> bool:
        """True if it will never run: cancelled, skipped or lost."""
        return self._end == CANCELLED

    def _settle(
        self, end: int, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Note how it ended; no effect if it has. ``_publish()`` tells who waits."""
        if self._end == PENDING:
            self._value, self._error = value, error
            self._end = end  # last: another thread may be making the future just now

    def _publish(self) -> None:
        # The first one only, of the thread that ends it and those that look at it.
        unpublished = self._unpublished
        if self._end == PENDING or not (unpublished and is_first(unpublished)):
            return
        if self._end == RETURNED:
            Future.set_result(self, self._value)
        elif self._end == RAISED:
            Future.set_exception(self, self._error)
        else:
            Future.cancel(self)
            self.set_running_or_notify_cancel()


def is_first(turn: list[bool]) -> bool:
    """True for the first who asks, of any thread: a list of one, as pop() is atomic."""
    try:
        return turn.pop()
    except IndexError:
        return False
