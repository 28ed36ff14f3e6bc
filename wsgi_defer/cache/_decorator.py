"""``@flexible_cache``: a function whose results are cached."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from .._calls.invoke import check_function
from .._runtime.report import qualified_name
from ._cached import Cached
from ._flexible import WAIT, OnRefresh, check_ages, value_of

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
# Their repr() is the same in every process.
_PLAIN = (str, int, float, bool, bytes, type(None))


class CachedFunction(Protocol[P, T_co]):
    """What ``@flexible_cache`` returns."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """The value for these arguments."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Its key in the cache, such as to delete it."""

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, T_co]: ...

    @overload
    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Callable[..., T_co]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As for any function: that of a class is a method of its objects."""


def flexible_cache(
    cache: Any,
    *,
    fresh: float,
    stale: float,
    key: Callable[..., str] | None = None,
    wait: float = WAIT,
    on_refresh: OnRefresh | None = None,
) -> Callable[[Callable[P, T]], CachedFunction[P, T]]:
    """Cache what the function returns, for each set of arguments, by ``flexible()``.

    The key is made of the function's name and a hash of the arguments, as they are
    given: ``f(1)`` and ``f(n=1)`` have two. They may be texts, numbers, bytes, booleans
    and None, and tuples of these; for others, ``key(*args, **kwargs)`` returns the
    whole key. ``f.key(...)`` tells the key, such as to delete it from the cache.

    Raises what ``flexible()`` raises; ``TypeError`` for another kind of argument.
    """
    check_ages(fresh, stale)

    def decorate(fn: Callable[P, T]) -> CachedFunction[P, T]:
        check_function(fn, "flexible_cache", "@flexible_cache(...)")
        if iscoroutinefunction(fn):
            raise TypeError(
                f"{qualified_name(fn)} is a coroutine function, and @flexible_cache "
                "returns values, not what is awaited. Call flexible(), which runs it"
            )
        key_of = functools.partial(_key, fn) if key is None else key

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            cached = Cached(cache, key_of(*args, **kwargs), stale, wait)
            value: T = value_of(
                cached, fresh, fn, args, kwargs, on_refresh, sys._getframe(1)
            )
            return value

        call.key = key_of  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _key(fn: Callable[..., object], /, *args: object, **kwargs: object) -> str:
    name = qualified_name(fn)
    for value in (*args, *kwargs.values()):
        _check_plain(name, value)
    arguments = repr((args, sorted(kwargs.items())))
    digest = sha256(arguments.encode(errors="surrogatepass")).hexdigest()
    return f"{name}:{digest[:32]}"


def _check_plain(name: str, value: object) -> None:
    if type(value) is tuple:
        for each in value:
            _check_plain(name, each)
    elif type(value) not in _PLAIN:
        raise TypeError(
            f"{name} was called with an argument of type {type(value).__name__}, of "
            "which no key can be made. Pass texts, numbers, bytes, None or tuples of "
            "these, or make the key yourself: @flexible_cache(..., key=lambda ...: ...)"
        )
