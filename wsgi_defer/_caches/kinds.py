"""Which kind of cache somebody has, by the classes of the object."""

from __future__ import annotations

import os
from typing import Any

from .store import DogpileStore, PlainStore, RedisStore, Store

# Whom a cache serves, by the name of its class. All others serve many machines.
_PROCESS = {"SimpleCache", "LocMemCache", "MemoryBackend", "MemoryPickleBackend"}
# What these add is not atomic, and may see what has expired.
_MACHINE = {"FileSystemCache", "FileBasedCache", "DBMBackend"}
_NOBODY = {"NullCache", "DummyCache", "NullBackend"}


class Kind:
    """A cache: its ``store``, and who shares what is in it.

    ``shared`` is the store, if it has to keep locks among machines; otherwise None.
    ``place`` is what tells its keys from those of others in the names of locks; None if
    the cache keeps nothing.
    """

    def __init__(self, store: Store, backend: object) -> None:
        name = type(backend).__name__
        self.store = store
        self.shared = None if name in _PROCESS | _MACHINE | _NOBODY else store
        self.place: str | None = f"{name} {_where(backend)}"
        if name in _PROCESS:
            self.place = f"{name} {os.getpid()}"
        elif name in _NOBODY:
            self.place = None


def kind_of(cache: Any) -> Kind:
    """Look at a cache. Raises ``TypeError`` if it is none that is known here."""
    if isinstance(cache, RedisStore):
        return Kind(cache, cache.client)
    library = _library(cache)
    if library == "flask_caching" and hasattr(cache, "init_app"):
        cache = cache.cache  # of the app that is current here
    if library in ("cachelib", "flask_caching"):
        return Kind(PlainStore(cache), cache)
    if library == "django":
        return Kind(PlainStore(cache), _of_this_thread(cache))
    if library == "dogpile":
        return Kind(DogpileStore(cache), cache.actual_backend)
    if library == "redis":
        return Kind(RedisStore(cache), cache)
    raise TypeError(
        "a cache is an object of cachelib, Flask-Caching, Django, dogpile.cache or "
        f"redis-py (not its asyncio client), not {type(cache).__name__}"
    )


_LIBRARIES = {"cachelib", "flask_caching", "django", "dogpile", "redis"}


def _library(cache: Any) -> str:
    modules = [kind.__module__ for kind in type(cache).__mro__]
    if any(".asyncio" in module for module in modules):
        return ""
    names = [module.partition(".")[0] for module in modules]
    return next((name for name in names if name in _LIBRARIES), "")


def _of_this_thread(cache: Any) -> Any:
    # django.core.cache.cache stands for the cache of each thread.
    alias = getattr(cache, "_alias", None)
    return cache if alias is None else cache._connections[alias]


# What tells a cache from others of its class, as far as it has that.
_WHERE = ("_path", "_dir", "_servers", "filename", "url", "key_prefix")
_WHICH_REDIS = ("host", "port", "path", "db")


def _where(backend: Any) -> str:
    client = getattr(backend, "_write_client", backend)  # of cachelib
    found = [getattr(backend, name, "") for name in _WHERE]
    options = getattr(getattr(client, "connection_pool", ""), "connection_kwargs", {})
    found += [options.get(name, "") for name in _WHICH_REDIS]
    return "|".join(map(str, found))
