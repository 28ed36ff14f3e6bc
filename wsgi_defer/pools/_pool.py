"""``pool()`` and ``gather()``: what a request does with its pools."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from typing import Any, Literal, ParamSpec, TypeVar, overload

from .._calls.invoke import check_function
from .._calls.scope import Scope, get_current
from ..errors import NoScopeError, UnknownPoolError
from ._kinds import DEFAULT, PoolKind, checked_pools
from ._opened import opened

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
Waited = Future[Any] | Callable[[], object]  # what gather() takes


class Pool:
    """A pool, as one request has it. ``name`` is its name in the configuration."""

    __slots__ = ("_kind", "_scope", "name")

    def __init__(self, name: str, kind: PoolKind, scope: Scope) -> None:
        self.name = name
        self._kind = kind
        self._scope = scope

    @property
    def size(self) -> int:
        """How many of its tasks run at a time, in each process."""
        return self._kind.size

    @property
    def max_wait(self) -> float:
        """Seconds that a task has from ``submit()`` to its result."""
        return self._kind.max_wait

    @overload
    def submit(
        self,
        fn: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]: ...

    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` in the pool, now or when a place is free.

        Raises ``TypeError`` if ``fn`` is not of the kind that this pool runs,
        ``UnpicklableError`` if it cannot be sent to another process,
        ``ScopeClosedError`` after the end of the request, and ``PoolClosedError`` when
        the process exits.
        """
        check_function(fn, "submit", "submit(fetch, url)")
        runner = opened(self._kind)
        return runner.submit(self.name, self._scope, fn, args, kwargs)  # type: ignore[no-any-return]

    @overload
    def map(
        self, fn: Callable[..., Coroutine[Any, Any, T]], *iterables: Iterable[Any]
    ) -> Iterator[T]: ...

    @overload
    def map(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> Iterator[T]: ...

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Run ``fn`` for each item, at the same time; their results, in input order.

        All are submitted at once, as by ``submit()``. The iterator raises what a task
        raised, when it comes to that one; this cancels the tasks after it, and so does
        closing the iterator.
        """
        futures: list[Future[Any]] = []
        try:
            for args in zip(*iterables):  # noqa: B905 - as map() does
                futures.append(self.submit(fn, *args))
        except BaseException:
            _cancel(futures)
            raise
        return _Results(futures)


def pool(name: str = DEFAULT) -> Pool:
    """The pool of that name, for the request that is being handled here.

    Raises ``NoScopeError`` outside a request, and ``UnknownPoolError``.
    """
    scope = get_current()
    if scope is None:
        raise NoScopeError("pool")
    pools: Any = scope.options.pools or checked_pools(None)
    kind = pools.get(name)
    if kind is None:
        raise UnknownPoolError(name, tuple(pools))
    return Pool(name, kind, scope)


# Futures of one type have results of that type. Those of functions are Any: to mypy,
# the results of functions that differ would all be mere objects.
@overload
def gather(  # type: ignore[overload-overlap]  # a Mapping is an Iterable, too
    calls: Mapping[K, Future[T]],
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> dict[K, T]: ...


@overload
def gather(  # type: ignore[overload-overlap]
    calls: Iterable[Future[T]],
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> list[T]: ...


@overload
def gather(  # type: ignore[overload-overlap]
    calls: Mapping[K, Waited],
    *,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> dict[K, Any]: ...


@overload
def gather(
    calls: Iterable[Waited],
    *,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> list[Any]: ...


def gather(
    calls: Mapping[Any, Any] | Iterable[Any],
    *,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> dict[Any, Any] | list[Any]:
    """Run all at the same time, and return their results: same keys, same order.

    ``calls`` is a list or a dict of functions without arguments, which run on the
    default pool, or of futures. Deferred calls are futures, too: they run here, early,
    as by ``result()``, once the tasks are submitted. If one fails, the others are
    cancelled, and its exception is raised.

    ``timeout`` is in seconds, for all together; by default it is the ``max_wait`` of
    the default pool. It does not end a deferred call that runs here. After it, the rest
    is cancelled, and ``PoolTimeoutError`` is raised. With ``return_exceptions``, none
    of these is raised: each outcome is a result or an exception, and a
    ``PoolTimeoutError`` for what was too late.

    Raises ``NoScopeError`` outside a request, ``TypeError`` for what is neither a
    function nor a future, ``ValueError`` for a negative time; nothing has run then.
    """
    from ._gather import collect
    from ._task import checked_timeout

    default = _default("gather")
    seconds = default.max_wait if timeout is None else checked_timeout(timeout)
    keys = list(calls) if isinstance(calls, Mapping) else None
    items = list(calls.values() if isinstance(calls, Mapping) else calls)
    for item in items:
        if not callable(item) and not isinstance(item, Future):
            raise TypeError(
                "gather() takes functions without arguments, and futures, not "
                f"{type(item).__name__}"
            )
    futures: list[Future[Any]] = []
    try:
        for item in items:
            futures.append(item if isinstance(item, Future) else default.submit(item))
        results = collect(futures, seconds, return_exceptions)
        return results if keys is None else dict(zip(keys, results, strict=True))
    except BaseException:
        _cancel(futures)
        raise
    finally:
        # frame cycle
        futures.clear()
        items.clear()
        calls = default = item = results = None  # type: ignore[assignment]


def _default(function: str) -> Pool:
    if get_current() is None:
        raise NoScopeError(function)
    return pool()


class _Results(Iterator[T]):
    """What ``map()`` returns. A generator that has not started could not be closed."""

    def __init__(self, futures: list[Future[T]]) -> None:
        self._futures = futures
        self._steps = _results(futures)

    def __next__(self) -> T:
        return next(self._steps)

    def close(self) -> None:
        """Cancel the tasks whose results are not taken yet."""
        self._steps.close()
        _cancel(self._futures)


def _results(futures: list[Future[T]]) -> Generator[T]:
    try:
        futures.reverse()
        while futures:
            yield futures.pop().result()
    finally:
        _cancel(futures)


def _cancel(futures: list[Any]) -> None:
    for future in futures:
        future.cancel()
