"""The deferred call that renews a cached value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

from .._caches.lock import Lock
from .._caches.store import Entry
from .._calls.call import DeferredCall
from .._calls.invoke import Invocation
from ._cached import Cached

T = TypeVar("T")


class Refresh(DeferredCall[T]):
    """A call of the function that computes the value, which is then stored.

    To logs and tests, it is a call of that function.
    """

    def __init__(
        self,
        cached: Cached,
        found: Entry,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        registered_by: FrameType,
    ) -> None:
        super().__init__(fn, args, kwargs, registered_by)
        self._cached = cached
        self.once = _OneAtATime(cached, found)

    def once_for(self, name: str, seconds: float, *, lock: object = None) -> Refresh[T]:
        """Refused: it runs one at a time as it is. Raises ``TypeError``."""
        raise TypeError(
            "a refresh of flexible() runs one at a time as it is, and not before its "
            "value is stale; set fresh=... in place of once_for()"
        )

    def take(self) -> Invocation | None:
        invocation = super().take()
        if invocation is None:
            return None
        context, fn, args, kwargs = invocation
        return context, self._cached.store, (fn, args, kwargs), {}


class _OneAtATime:
    """Of the calls that have seen this entry, one renews it."""

    _lock: Lock | None = None

    def __init__(self, cached: Cached, found: Entry) -> None:
        self._cached = cached
        self._found = found

    def take(self) -> str | None:
        lock = self._cached.lock()
        if lock is None:
            return "its value is being renewed elsewhere"
        try:
            changed = self._cached.changed_since(self._found)
        except BaseException:
            lock.free()
            raise
        if changed:
            lock.free()
            return "its value was renewed or forgotten meanwhile"
        self._lock = lock
        return None

    def end(self, succeeded: bool) -> None:
        lock, self._lock = self._lock, None
        assert lock is not None
        lock.free()
