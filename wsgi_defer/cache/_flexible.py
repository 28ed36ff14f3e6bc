"""``flexible()``: a cached value that is renewed after the response."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, overload
from weakref import WeakKeyDictionary

from .._calls.call import Async, DeferredCall
from .._calls.invoke import check_function
from .._calls.scope import Scope, get_current
from ..errors import ScopeClosedError, TooManyCallsError, TooManyWaitingError
from ._cached import Cached
from ._refresh import Refresh

T = TypeVar("T")
WAIT = 5.0
OnRefresh = Callable[[DeferredCall[Any]], object]


@overload
def flexible(
    cache: Any, key: str, fresh: float, stale: float,
    fn: Callable[..., Async[T]], /, *args: Any,
    wait: float = WAIT, on_refresh: OnRefresh | None = None,
) -> T: ...  # fmt: skip


@overload
def flexible(
    cache: Any, key: str, fresh: float, stale: float,
    fn: Callable[..., T], /, *args: Any,
    wait: float = WAIT, on_refresh: OnRefresh | None = None,
) -> T: ...  # fmt: skip


def flexible(
    cache: Any, key: str, fresh: float, stale: float,
    fn: Callable[..., Any], /, *args: Any,
    wait: float = WAIT, on_refresh: OnRefresh | None = None,
) -> Any:  # fmt: skip
    """The value of that key: ``fn(*args)``, as it was not long ago.

    Younger than ``fresh`` seconds, it is returned as it is. Up to ``stale`` seconds, it
    is returned at once, too, and one deferred call renews it after the response. If
    there is none, or only an older one, ``fn(*args)`` is called here.

    Of all processes that share the cache, one renews a key at a time. A refresh is
    skipped if another one runs, or if the value has changed since this request has
    read it. If it fails, the old value stays, and the call has failed. By default, it
    runs only if the response is a success. ``on_refresh(call)`` is given each one that
    is deferred: ``on_refresh=DeferredCall.always`` has it run after errors, too.

    Where there is no value, one computes it. The others wait for that, for at most
    ``wait`` seconds, and compute it themselves then.

    Outside a request, a value that is not fresh is renewed here, unless another process
    does that. If that fails, the error is logged, and the old value is returned.

    The age is told by ``time.time()`` of the machines that read and write the value;
    their clocks should agree within a fraction of ``fresh``.

    Safe from any thread. Raises what ``fn`` and the cache raise; ``TypeError`` for
    another kind of cache, or an ``fn`` that cannot be called; ``ValueError`` unless
    ``0 <= fresh < stale``.
    """
    check_function(fn, "flexible", 'flexible(cache, "prices", 5, 60, load, "eu")')
    check_ages(fresh, stale)
    cached = Cached(cache, key, stale, wait)
    return value_of(cached, fresh, fn, args, {}, on_refresh, sys._getframe(1))


def check_ages(fresh: float, stale: float) -> None:
    """Raises ``ValueError`` unless the first is less than the second."""
    if not 0 <= fresh < stale:
        raise ValueError(
            f"fresh and stale are ages in seconds, 0 <= fresh < stale, not {fresh!r} "
            f"and {stale!r}"
        )


def value_of(
    cached: Cached, fresh: float, fn: Callable[..., Any],
    args: tuple[Any, ...], kwargs: dict[str, Any],
    on_refresh: OnRefresh | None, registered_by: FrameType,
) -> Any:  # fmt: skip
    """See ``flexible()``."""
    found = cached.read()
    if found is None:
        return cached.compute(fn, args, kwargs)
    if found.age < fresh:
        return found.value
    scope = get_current()
    if scope is None or scope.closed:
        return cached.renew_here(found, fn, args, kwargs)
    if _is_first(scope, cached):
        refresh: Refresh[Any] = Refresh(cached, found, fn, args, kwargs, registered_by)
        try:
            scope.append(refresh, scope.deferred, "flexible")
        except (TooManyCallsError, TooManyWaitingError, ScopeClosedError):
            return found.value  # another request renews it
        if on_refresh is not None:
            on_refresh(refresh)
    return found.value


# What each request renews: the caches, by their id and the key.
_renewed: WeakKeyDictionary[Scope, dict[tuple[int, str], Any]] = WeakKeyDictionary()


def _is_first(scope: Scope, cached: Cached) -> bool:
    """Whether this request does not renew that yet."""
    renewed = _renewed.setdefault(scope, {})
    ours = (cached.cache,)  # kept, so that no other cache gets its id
    return renewed.setdefault((id(cached.cache), cached.key), ours) is ours
