"""The kinds of pools to choose from, and how each is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._calls.invoke import check_seconds

MAX_WAIT = 30.0  # seconds


class PoolKind:
    """How a pool is bounded. Each process makes a pool of its own, on first use.

    ``size`` is how many tasks run at a time. ``max_wait`` is how many seconds a task
    has from ``submit()`` to its result; ``math.inf`` is no bound.
    """

    def __init__(self, size: int, *, max_wait: float = MAX_WAIT) -> None:
        kind = type(self).__name__
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(
                f"{kind} takes the number of tasks that run at a time, not "
                f"{type(size).__name__}"
            )
        if size < 1:
            raise ValueError(f"{kind} runs at least 1 task at a time, not {size}")
        self.size = size
        self.max_wait = check_seconds("max_wait", max_wait)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size}, max_wait={self.max_wait:g})"


class ThreadPool(PoolKind):
    """At most ``size`` threads, for work that waits for others: services, disks.

    A task runs in a copy of the ``contextvars`` context of its ``submit()``, so that
    ``current_scope()`` and Flask's ``request`` are those of the view. It runs inside of
    what ``DeferMiddleware(around=...)`` opens for it: with our Flask extension, an app
    context, ``g`` and database session of its own. A thread cannot be ended from
    outside: a task that is no longer wanted while it runs is abandoned, and another
    thread takes its place, up to ``size`` of them.

    :param size: how many threads at a time.
    :param max_wait: seconds that a task may take, counted from its ``submit()``: its
        wait for a free place, and its run. After that, its future fails with
        ``PoolTimeoutError``.
    """


class ProcessPool(PoolKind):
    """At most ``size`` child processes, for work that computes.

    Each is an interpreter of its own, started for the first task that finds none free.
    So children have no copy of the worker's memory, sockets or ``contextvars``.
    Function, arguments and result are pickled, and the function must be importable by
    its name. It takes 60 ms to start a child, and as long again as the function's
    module takes to import. A task that is cancelled or late ends with its child, which
    is replaced.

    Children end with their worker, even after ``kill -9``, and not before: they ignore
    TERM, INT, HUP, USR1 and USR2, which a service manager or a terminal may send to all
    processes; QUIT ends a child. What a task prints goes to the server's output when
    the task has ended. In a script that you run directly, put pool use under ``if
    __name__ == "__main__":``; children may import the script. A process that a task
    starts does not end with the task. Under gevent, use thread pools only. Where
    ``sys.executable`` is not Python, as in uWSGI, ``multiprocessing.set_executable()``
    must say what is.

    :param size: how many processes at a time.
    :param max_wait: seconds that a task may take, counted from its ``submit()``: its
        wait for a free place, and its run. After that, its future fails with
        ``PoolTimeoutError``.
    """


class AsyncPool(PoolKind):
    """At most ``size`` coroutines, on one event loop in a thread of its own.

    All such pools of a process share the loop, so a task that blocks it holds up all of
    them. A task that is cancelled gets ``asyncio.CancelledError``; its place is free
    when it has ended. It runs in a copy of the ``contextvars`` context of its
    ``submit()``, and inside of what ``DeferMiddleware(around=...)`` opens for it, as in
    a ``ThreadPool``; that is closed on the loop's thread. Not for gevent's workers.

    :param size: how many coroutines at a time.
    :param max_wait: seconds that a task may take, counted from its ``submit()``: its
        wait for a free place, and its run. After that, its future fails with
        ``PoolTimeoutError``.
    """


DEFAULT = "default"
_DEFAULT_POOLS = {DEFAULT: ThreadPool(8)}

Pools = Mapping[str, PoolKind] | Iterable[tuple[str, PoolKind]]


def checked_pools(pools: Pools | None) -> Mapping[str, PoolKind]:
    """Refuse anything but a set of pools; return it by name, with a ``default``."""
    if pools is None:
        return _DEFAULT_POOLS
    checked: dict[str, PoolKind] = {}
    names: dict[int, str] = {}
    for name, kind in pools.items() if isinstance(pools, Mapping) else pools:
        if not isinstance(name, str) or not isinstance(kind, PoolKind):
            raise TypeError(
                "pools takes names with a ThreadPool, ProcessPool or AsyncPool each, "
                f"not {type(name).__name__} with {type(kind).__name__}"
            )
        if name in checked:
            raise ValueError(f"there are two pools of the name {name!r}")
        other = names.setdefault(id(kind), name)
        if other != name:
            raise ValueError(
                f"the pools {other!r} and {name!r} are the same object; make one for "
                "each name"
            )
        checked[name] = kind
    return {**_DEFAULT_POOLS, **checked}
