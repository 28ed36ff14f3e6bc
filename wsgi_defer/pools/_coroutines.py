"""A pool of coroutines, on the one event loop thread of this process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from inspect import iscoroutinefunction
from time import sleep
from typing import Any

from .._calls.invoke import Around
from .._calls.scope import Scope
from .._runtime.clock import monotonic
from .._runtime.forks import no_fork_leaves
from .._runtime.loop import loop
from .._runtime.report import qualified_name
from ..errors import PoolClosedError
from ._deadlines import Queue, deadlines
from ._task import Task, abandon_all

END_WAIT = 0.1  # seconds for coroutines to end when the process exits
END_POLL = 0.005  # seconds between two looks whether they have ended


class Coroutines:
    """Only ``submit()``, ``stop()``, ``close()`` may run outside the loop's thread."""

    stops_running = True

    def __init__(self, size: int, max_wait: float) -> None:
        self.size = size
        self.max_wait = max_wait
        self.tasks: Queue = OrderedDict()  # that have not ended, oldest first
        self._deadlines = deadlines()
        self._deadlines.watch(self.tasks)
        self._loop = loop()
        self._waiting: OrderedDict[Task, None] = OrderedDict()
        self._coroutines: dict[Task, asyncio.Task[Any]] = {}
        self.closed = False

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Task:
        """Raises ``TypeError`` for anything but a coroutine function, too."""
        if not (iscoroutinefunction(fn) or iscoroutinefunction(type(fn).__call__)):
            raise TypeError(
                f"{qualified_name(fn)} is not a coroutine function; the pool {pool!r} "
                "runs these only. A ThreadPool runs plain functions; if it calls a "
                "coroutine function, wrap it: async def f(): return await g()"
            )
        task = Task(self, pool, scope, fn, args, kwargs)
        task.enter()
        try:
            if self.closed:  # as in Threads
                raise PoolClosedError(pool)
            if task.deadline < self._deadlines.next_look:
                self._deadlines.wake()
            self._loop.call(self._admit, task)
        except BaseException:
            task.cancel()
            raise
        return task

    def _admit(self, task: Task) -> None:
        self._waiting[task] = None
        self._start_next()

    def _start_next(self) -> None:
        while self._waiting and len(self._coroutines) < self.size:
            task, _ = self._waiting.popitem(last=False)
            if (work := task.begin()) is not None:
                # create_task(context=...) is 3.11: this copies the copy.
                work[0].run(self._start, task, *work[1:])

    def _start(
        self, task: Task, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        try:
            running = asyncio.get_running_loop().create_task(
                _leaving_no_fork(fn(*args, **kwargs))
            )
        except Exception as error:  # wrong arguments, for one
            task.fail(error)
            return
        self._coroutines[task] = running
        running.add_done_callback(lambda running: self._end(task, running))

    @staticmethod
    async def inside(
        around: Around, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run it inside of what the scope has around its calls."""
        with around():
            return await fn(*args, **kwargs)

    def _end(self, task: Task, running: asyncio.Task[Any]) -> None:
        del self._coroutines[task]
        if running.cancelled():
            task.cancel()  # if the coroutine has raised CancelledError by itself
        elif (error := running.exception()) is not None:
            task.fail(error)
        else:
            task.succeed(running.result())
        self._start_next()

    def stop(self, task: Task) -> None:
        """Cancel its coroutine."""
        self._loop.call(self._stop, task)

    def _stop(self, task: Task) -> None:
        if (running := self._coroutines.get(task)) is not None:
            running.cancel()
        else:
            self._waiting.pop(task, None)

    def close(self) -> None:
        """Abandon all tasks."""
        self.closed = True
        abandon_all(self.tasks)
        self._deadlines.unwatch(self.tasks)
        # Time for what coroutines do when they are cancelled, if that is short.
        until = monotonic() + END_WAIT
        while self._coroutines and monotonic() < until and not self._loop.is_here:
            sleep(END_POLL)

    def forget(self) -> None:
        """In a child process: all this is the parent's."""


async def _leaving_no_fork(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with no_fork_leaves():
        return await coroutine
