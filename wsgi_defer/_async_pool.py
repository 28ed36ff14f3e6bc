"""A pool of coroutines, on the one event loop thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from time import monotonic, sleep
from typing import Any

from ._call import Around, qualified_name
from ._deadlines import Queue, deadlines
from ._job import Job, end_all
from ._per_process import PerProcess
from ._scope import Scope
from .errors import PoolClosedError

logger = logging.getLogger("wsgi_defer")
END_WAIT = 0.1  # seconds for coroutines to end when the process exits
LOOK = 0.005  # seconds between two looks at them


class Loop:
    """An event loop that runs in a daemon thread, from its first use on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call it soon, in the loop."""
        loop = self._loop or self._start()
        loop.call_soon_threadsafe(function, *args)

    @property
    def is_here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._work, args=(loop,), name="wsgi_defer-loop", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                loop.run_forever()
            except BaseException:  # SystemExit in a coroutine stops a loop
                logger.debug("the loop was stopped; it goes on", exc_info=True)


_loop = PerProcess(Loop)


class Coroutines:
    """All but ``submit()``, ``stop()`` and ``close()`` runs in the loop's thread."""

    stops_running = True

    def __init__(self, size: int, max_wait: float) -> None:
        self.size = size
        self.max_wait = max_wait
        self.jobs: Queue = OrderedDict()  # that have not ended, oldest first
        self._deadlines = deadlines()
        self._deadlines.watch(self.jobs)
        self._loop = _loop()
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._tasks: dict[Job, asyncio.Task[Any]] = {}
        self._closed = False

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Job:
        """Raises ``TypeError`` for what is no coroutine function, too."""
        if not (iscoroutinefunction(fn) or iscoroutinefunction(type(fn).__call__)):
            raise TypeError(
                f"{qualified_name(fn)} is no coroutine function; the pool {pool!r} "
                "runs these only. A ThreadPool runs plain functions; if it calls a "
                "coroutine function, wrap it: async def f(): return await g()"
            )
        job = Job(self, pool, scope, fn, args, kwargs)
        job.enter()
        try:
            if self._closed:  # as in Threads
                raise PoolClosedError(pool)
            if job.deadline < self._deadlines.next_look:
                self._deadlines.wake()
            self._loop.call(self._admit, job)
        except BaseException:
            job.cancel()
            raise
        return job

    def _admit(self, job: Job) -> None:
        self._waiting[job] = None
        self._start_next()

    def _start_next(self) -> None:
        while self._waiting and len(self._tasks) < self.size:
            job, _ = self._waiting.popitem(last=False)
            if (work := job.begin()) is not None:
                # create_task(context=...) is 3.11: this copies the copy.
                work[0].run(self._start, job, *work[1:])

    def _start(self, job: Job, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            task = asyncio.get_running_loop().create_task(fn(*args, **kwargs))
        except Exception as error:  # such as wrong arguments
            job.fail(error)
            return
        self._tasks[job] = task
        task.add_done_callback(lambda task: self._end(job, task))

    @staticmethod
    async def inside(
        around: Around, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run it inside of what the scope has around its calls."""
        with around():
            return await fn(*args, **kwargs)

    def _end(self, job: Job, task: asyncio.Task[Any]) -> None:
        del self._tasks[job]
        if task.cancelled():
            job.cancel()  # by itself, or it was that already
        elif (error := task.exception()) is not None:
            job.fail(error)
        else:
            job.succeed(task.result())
        self._start_next()

    def stop(self, job: Job) -> None:
        """Cancel its coroutine."""
        self._loop.call(self._stop, job)

    def _stop(self, job: Job) -> None:
        if (task := self._tasks.get(job)) is not None:
            task.cancel()
        else:
            self._waiting.pop(job, None)

    def close(self) -> None:
        """End the jobs that there are."""
        self._closed = True
        end_all(self.jobs)
        self._deadlines.unwatch(self.jobs)
        # What coroutines do when they are cancelled, if it is short.
        until = monotonic() + END_WAIT
        while self._tasks and monotonic() < until and not self._loop.is_here:
            sleep(LOOK)

    def forget(self) -> None:
        """In a child process: its parent has all this."""
