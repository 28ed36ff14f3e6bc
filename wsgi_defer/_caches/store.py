"""A cache, as this package needs it, and how the kinds of caches do that.

Third parties are not imported here: who has a cache has imported its library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, NamedTuple, Protocol

_MARK = "wsgi_defer"  # of what is stored, beside values of others


class Entry(NamedTuple):
    """What is stored: a value, and when it was made, by ``time.time()``."""

    made: float
    value: Any

    @classmethod
    def now(cls, value: Any) -> Entry:
        """One that is made now."""
        return cls(time.time(), value)

    @property
    def age(self) -> float:
        """Seconds. What seems to come from the future is as good as what is as far in
        the past: it was made by a clock that differs, or before this one was set."""
        return abs(time.time() - self.made)


class Store(Protocol):
    """A cache. Its methods raise what its library raises."""

    def get(self, key: str) -> Entry | None:
        """What is stored; None if there is nothing, or something else."""

    def set(self, key: str, entry: Entry, seconds: float) -> Any:
        """Store it for at least ``seconds``. Returns the value as ``get()`` will."""

    def lock(self, key: str, token: str, seconds: float) -> Callable[[], object] | None:
        """Take a lock for at most ``seconds``; returns what gives it back, or None if
        it is taken. A lock that is taken with this very token is taken over."""


def _entry(found: Any) -> Entry | None:
    # A list, if the cache has a serializer like JSON's.
    if isinstance(found, (tuple, list)) and len(found) == 3 and found[0] == _MARK:
        return Entry(found[1], found[2])
    return None


class PlainStore:
    """A cache of cachelib, Flask-Caching or Django."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def get(self, key: str) -> Entry | None:
        return _entry(self._cache.get(key))

    def set(self, key: str, entry: Entry, seconds: float) -> Any:
        # Some count in whole seconds, and round the time of the end down.
        self._cache.set(key, (_MARK, *entry), ceil(seconds) + 1)
        return entry.value

    def lock(self, key: str, token: str, seconds: float) -> Callable[[], object] | None:
        if not self._cache.add(key, token, ceil(seconds)):
            if self._cache.get(key) != token:
                return None
            self._cache.set(key, token, ceil(seconds))
        return partial(self._unlock, key, token)

    def _unlock(self, key: str, token: str) -> None:
        if self._cache.get(key) == token:
            self._cache.delete(key)


class DogpileStore:
    """A region of dogpile.cache, which decides itself how long it keeps values."""

    def __init__(self, region: Any) -> None:
        self._region = region

    def get(self, key: str) -> Entry | None:
        return _entry(self._region.get(key, ignore_expiration=True))

    def set(self, key: str, entry: Entry, seconds: float) -> Any:
        self._region.set(key, (_MARK, *entry))
        return entry.value

    def lock(self, key: str, token: str, seconds: float) -> Callable[[], object] | None:
        mangle = self._region.key_mangler
        mutex = self._region.backend.get_mutex(mangle(key) if mangle else key)
        if mutex is None:  # distributed_lock is not set
            return _nothing
        release: Callable[[], object] = mutex.release
        return release if mutex.acquire(False) else None


def _nothing() -> None:
    pass


class RedisStore:
    """A client of redis-py, and how values are written there: JSON by default.

    ``dumps(value)`` returns ``str`` or ``bytes``, of which ``loads()`` makes the value
    again. With ``pickle``, whoever can write to that Redis can run code in this
    process. With a client that decodes responses, ``dumps`` must return text.
    """

    def __init__(
        self,
        client: Any,
        *,
        dumps: Callable[[Any], str | bytes] | None = None,
        loads: Callable[[Any], Any] = json.loads,
    ) -> None:
        self.client = client
        self._dumps = dumps or _as_json
        self._loads = loads

    def get(self, key: str) -> Entry | None:
        found = self.client.get(key)
        if found is None:
            return None
        if isinstance(found, str):
            found = found.encode()
        head, _, payload = found.partition(b"\n")
        mark, _, made = head.partition(b" ")
        if mark != _MARK.encode():
            return None
        return Entry(float(made), self._loads(payload))

    def set(self, key: str, entry: Entry, seconds: float) -> Any:
        payload = self._dumps(entry.value)
        if isinstance(payload, str):
            payload = payload.encode()
        data = f"{_MARK} {entry.made!r}\n".encode() + payload
        self.client.set(key, data, px=ceil(seconds * 1000))
        return self._loads(payload)

    def lock(self, key: str, token: str, seconds: float) -> Callable[[], object] | None:
        most = ceil(seconds * 1000)
        if self.client.set(key, token, nx=True, px=most) or self.client.eval(
            _IF_OURS.format("'pexpire', KEYS[1], ARGV[2]"), 1, key, token, most
        ):
            return partial(
                self.client.eval, _IF_OURS.format("'del', KEYS[1]"), 1, key, token
            )
        return None


# https://redis.io/docs/latest/commands/set/ on locks: only their holder deletes them.
_IF_OURS = (
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call({}) end return 0"
)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a value for Redis is written as JSON, and this one cannot be: {error}. "
            "Return dicts, lists, texts and numbers, or pass RedisStore(client, "
            "dumps=..., loads=...) in place of the client"
        ) from None
