"""Several things at the same time, inside a request: pools that end with it.

::

    app = DeferMiddleware(app, pools={
        "default": ThreadPool(8, max_wait=30),
        "external_api": ThreadPool(16, max_wait=10),
        "cpu": ProcessPool(4, max_wait=60),
        "io": AsyncPool(100),
    })

    def view():
        stock = pool("external_api").submit(fetch_stock, 42)
        price = pool("external_api").submit(fetch_price, 42)
        return stock.result(timeout=2), price.result(timeout=2)

The rules, in one place:

- A pool is made in each process, after the fork, when it is first used.
- ``submit()`` returns a ``concurrent.futures.Future``. Its ``result()`` raises what the
  job raised: the same object, with its traceback; from another process a copy, with the
  traceback as text in its cause. A result may be asked for any number of times.
- ``max_wait`` of the pool bounds waiting for a place in it and running, counted from
  ``submit()``. After that the future fails with ``PoolTimeoutError``. It is one bound,
  because the client waits for both.
- A sync worker of gunicorn is killed if its request takes longer than ``timeout``, and
  any worker ``graceful_timeout`` after TERM. With the hooks of ``wsgi_defer.gunicorn``,
  ``result()``, ``map()`` and ``gather()`` raise ``PoolTimeoutError`` just before that.
  ``wait()`` and ``as_completed()`` of ``concurrent.futures`` know nothing of it, nor of
  ``PoolTimeoutError``: give them a timeout.
- ``result(timeout)`` bounds its caller. The job goes on, and may be asked for again
  until ``max_wait`` is over or the request ends; ``cancel()`` it if that is no use.
- What nobody has awaited when the request ends is cancelled. The request ends when
  its calls have run, so these may await jobs of the view; without any, when the app has
  returned a finished list, or the server has closed the body.
- What runs on a thread cannot be cancelled: it is abandoned, and delays neither the
  response nor the next request nor the end of the worker.
- A ``sys.exit()`` in a job is raised where its result is asked for, and may end the
  worker there, as in the view itself; from another process, it is a ``RemoteError``.
- A job of a pool that waits for another job of the same pool may wait in vain, when
  all places are taken by such jobs. ``max_wait`` ends that.
- Callbacks of a future run in the thread that ends the job, as in all executors, and
  are to be short. Those of a job that was too late have a thread of their own.
- When the process exits, its deferred calls may use the pools up to the last one. Then
  the pools close: their jobs are cancelled, and ``submit()`` raises
  ``PoolClosedError``.

All of it may be used from any thread that carries the request's context.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import (
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar, overload
from weakref import WeakSet, finalize

from . import background
from ._pool_kinds import (
    DEFAULT,
    AsyncPool,
    PoolKind,
    ProcessPool,
    ThreadPool,
    checked_pools,
)
from ._scope import Scope, get_current
from .errors import NoScopeError, UnknownPoolError

__all__ = ["AsyncPool", "Pool", "ProcessPool", "ThreadPool", "gather", "pool"]

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")


class Pool:
    """A pool, as one request has it. ``name`` is its name in the configuration."""

    __slots__ = ("_kind", "_scope", "name")

    def __init__(self, name: str, kind: PoolKind, scope: Scope) -> None:
        self.name = name
        self._kind = kind
        self._scope = scope

    @property
    def size(self) -> int:
        """How many of its jobs run at a time, in each process."""
        return self._kind.size

    @property
    def max_wait(self) -> float:
        """Seconds that a job has from ``submit()`` to its result."""
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

        Raises ``TypeError`` if ``fn`` is nothing that this pool runs,
        ``UnpicklableError`` if it cannot be sent to another process,
        ``ScopeClosedError`` after the end of the request, and ``PoolClosedError`` when
        the process exits.
        """
        if not callable(fn):
            raise TypeError(
                "submit() takes a function and its arguments, as in submit(fetch, url)"
                f"; the first argument is {type(fn).__name__}, which cannot be called"
            )
        runner = self._kind._running or _open(self._kind)
        return runner.submit(self.name, self._scope, fn, args, kwargs)  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> Iterator[T]:
        """Run ``fn`` for each item, at the same time; their results, in input order.

        All are submitted at once, as if by ``submit()``. The iterator raises what a
        job raised, when it is its turn; the jobs after it are cancelled then, and so
        they are when the iterator is closed.
        """
        futures: list[Future[T]] = []
        try:
            for args in zip(*iterables):  # noqa: B905 - as map() does
                futures.append(self.submit(fn, *args))
        except BaseException:
            _cancel(futures)
            raise
        return _Results(futures)


def pool(name: str = DEFAULT) -> Pool:
    """The pool of that name, for the request that is handled here.

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


@overload
def gather(  # type: ignore[overload-overlap]  # a Mapping is an Iterable, too
    calls: Mapping[K, Any],
    *,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> dict[K, Any]: ...


@overload
def gather(
    calls: Iterable[Any],
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
    default pool, or of futures. Deferred calls are futures, too, and run here, early,
    as by their ``result()``, once the jobs are submitted. If one fails, the others are
    cancelled, and its exception is raised.

    ``timeout`` is in seconds, for all together; by default the ``max_wait`` of the
    default pool. It ends no deferred call that runs here. After it, the rest is
    cancelled, and ``PoolTimeoutError`` raised. With ``return_exceptions`` nothing of
    this is raised: each outcome is a result or an exception, a ``PoolTimeoutError``
    for those that were too late.

    Raises ``NoScopeError`` outside a request, ``TypeError`` for what is neither a
    function nor a future, ``ValueError`` for a negative time; then nothing has run.
    """
    from ._gather import collect
    from ._job import checked_timeout

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
        # What is raised leads to this frame, and the job that has raised it holds it.
        futures.clear()
        items.clear()
        calls = default = item = results = None  # type: ignore[assignment]


def _default(function: str) -> Pool:
    if get_current() is None:
        raise NoScopeError(function)
    return pool()


class _Results(Iterator[T]):
    """What ``map()`` returns. A generator that has not begun could not be closed."""

    def __init__(self, futures: list[Future[T]]) -> None:
        self._futures = futures
        self._steps = _results(futures)

    def __next__(self) -> T:
        return next(self._steps)

    def close(self) -> None:
        """Cancel the jobs whose results nobody has taken."""
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


_opened: WeakSet[PoolKind] = WeakSet()


def _open(kind: PoolKind) -> Any:
    """Make the pool of this process. What it needs is imported now, not before."""
    runner: Any
    if isinstance(kind, ProcessPool):
        from ._process_pool import Processes as runner  # noqa: N813
    elif isinstance(kind, AsyncPool):
        from ._async_pool import Coroutines as runner  # noqa: N813
    else:
        from ._thread_pool import Threads as runner  # noqa: N813
    made = runner(kind.size, kind.max_wait)
    _opened.add(kind)  # first, because another thread may fork at any line
    # setdefault: two threads may both be the first.
    running = kind.__dict__.setdefault("_running", made)
    if running is made:
        finalize(kind, _close, made, os.getpid()).atexit = False
        # Once more, so that it comes before those of what was imported since.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    else:
        made.close()
    return running


def _close(running: Any, process: int) -> None:
    if process == os.getpid():  # else it is the parent's
        running.close()


def _close_all() -> None:
    """The process exits. Its deferred calls may need the pools up to the last one."""
    try:
        background.finish()
    finally:
        for kind in list(_opened):
            if kind._running is not None:
                kind._running.close()


def _start_anew() -> None:
    # Threads did not come along, and locks may be held.
    for kind in list(_opened):
        running = kind.__dict__.pop("_running", None)
        if running is not None:
            running.forget()
    _opened.clear()


os.register_at_fork(after_in_child=_start_anew)
