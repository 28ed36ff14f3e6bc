"""Calls that run only if nobody runs, or has just run, the same: ``once_for()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from .._runtime.report import printable
from .invoke import check_seconds

if TYPE_CHECKING:
    from .._caches.kinds import Kind
    from .._caches.lock import Lock


class Once(Protocol):
    """Decides, just before a call would run, whether it may."""

    def take(self) -> str | None:
        """Claim the run. Returns why it must not be, or None. Raises if it cannot
        tell."""

    def end(self, succeeded: bool) -> None:
        """The run that was claimed has ended."""


class MayBeOnce(Protocol):
    """A call with this option."""

    once: Once | None


C = TypeVar("C", bound=MayBeOnce)
apart = ""  # what sets the names of a test's block apart from all others


def once_for(self: C, name: str, seconds: float, *, lock: object = None) -> C:
    """Run it only if nobody on this machine has run that name for ``seconds``.

    While a call of that name runs, in any process of this user, no other one does.
    When it has succeeded, the name is kept for ``seconds`` more. A run that fails, or
    is killed, does not count: the next call to ask runs. Otherwise a call is skipped.
    It is asked just before it would run, so a call that is skipped for another reason
    claims nothing. A reboot frees all names.

    ``lock`` is a cache that many machines share, or a client of redis-py: then it is
    nobody on any of them. See ``wsgi_defer.cache`` for the kinds. If a machine dies,
    the name is kept for ``seconds``, or for 30 if that is longer; a call that takes
    longer than that is not alone for all of its time.

    If the claim itself raises, as when that cache is down, the call has failed. Raises
    ``ValueError`` if ``seconds`` is not above 0, and ``TypeError`` for a lock of
    another kind.
    """
    check_seconds("once_for", seconds)
    kind = None
    if lock is not None:
        from .._caches.kinds import kind_of  # few need it

        kind = kind_of(lock)
    self.once = OnceFor(name, seconds, kind)
    return self


class OnceFor:
    """The option ``once_for()`` of one call."""

    _lock: Lock | None = None

    def __init__(self, name: str, seconds: float, kind: Kind | None) -> None:
        self._name = name
        self._seconds = seconds
        self._store = None if kind is None else kind.store
        self._shared = None if kind is None else kind.shared
        self._key = ""

    def take(self) -> str | None:
        from .._caches.lock import LEASE, take_lock

        self._key = f"wsgi_defer:once:{apart}{self._name}"
        lease = max(LEASE, self._seconds)
        lock = take_lock(self._key, self._shared, f"{self._key}:lock", lease)
        if lock is None:
            return f"'{printable(self._name)}' runs elsewhere"
        try:
            kept = lock.kept or self._kept_elsewhere()
        except BaseException:
            lock.free()
            raise
        if kept:
            lock.put_back()
            return f"'{printable(self._name)}' has run, and is kept for {kept:.1f} s"
        self._lock = lock
        return None

    def _kept_elsewhere(self) -> float:
        entry = None if self._store is None else self._store.get(self._key)
        if entry is None:
            return 0.0
        return max(0.0, self._seconds - entry.age)

    def end(self, succeeded: bool) -> None:
        lock, self._lock = self._lock, None
        assert lock is not None
        try:
            if succeeded and self._store is not None:
                from .._caches.store import Entry

                self._store.set(self._key, Entry.now(None), self._seconds)
        finally:
            lock.free(keep=self._seconds if succeeded else 0.0)
