"""One cached value: how it is read, computed and renewed, by one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .._caches.kinds import kind_of
from .._caches.lock import Lock, take_lock
from .._caches.store import Entry
from .._calls.invoke import complete
from .._runtime import report
from .._runtime.clock import monotonic
from .._runtime.report import qualified_name

# Seconds between two looks at what somebody else computes: at first, and at most.
SOON, AT_MOST = 0.005, 0.05


class Cached:
    """The value of one key of a cache, which lives for ``stale`` seconds."""

    def __init__(self, cache: Any, key: str, stale: float, wait: float) -> None:
        kind = kind_of(cache)
        self.cache = cache
        self.key = key
        self._store = kind.store
        self._shared = kind.shared
        self._place = kind.place
        self._stale = stale
        self._wait = wait

    def read(self) -> Entry | None:
        """What is cached; None if that is nothing, or too old."""
        found = self._store.get(self.key)
        return None if found is None or found.age > self._stale else found

    def changed_since(self, entry: Entry) -> bool:
        """Whether that entry was replaced, or deleted; not if it became too old."""
        found = self._store.get(self.key)
        if found is None:
            return entry.age < self._stale
        return found.made != entry.made

    def lock(self) -> Lock | None:
        """The lock of those who compute the value; None if somebody has it."""
        name = f"flexible:{self._place}:{self.key}"
        return take_lock(name, self._shared, f"{self.key}:lock")

    def store(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute the value, and store it; return it as others will read it."""
        value = complete(fn(*args, **kwargs))
        return self._store.set(self.key, Entry.now(value), self._stale)

    def compute(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The value, which nobody has cached yet. If somebody computes it, wait."""
        until, pause = monotonic() + self._wait, SOON
        while self._place is not None:
            try:
                lock = self.lock()
            except Exception as error:
                report.failure(
                    error, "no lock for %s, so it is called without", qualified_name(fn)
                )
                break
            if lock is not None:
                try:
                    found = self.read()  # somebody was quicker
                    return found.value if found else self.store(fn, args, kwargs)
                finally:
                    lock.free()
            left = until - monotonic()
            if left <= 0:
                break
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, AT_MOST)
            found = self.read()
            if found is not None:
                return found.value
        return self.store(fn, args, kwargs)

    def renew_here(
        self,
        found: Entry,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """The value, renewed in this thread, unless somebody does that already."""
        try:
            lock = self.lock()
            if lock is None:
                return found.value
            try:
                latest = self.read()
                if latest is not None and latest.made != found.made:
                    return latest.value
                return self.store(fn, args, kwargs)
            finally:
                lock.free()
        except Exception as error:
            report.failure(
                error, "%s failed to renew a cached value", qualified_name(fn)
            )
            return found.value
