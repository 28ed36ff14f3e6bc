"""A pool of daemon threads, which nothing waits for at exit.

Not ``ThreadPoolExecutor``: the interpreter joins its threads at exit, so that one
abandoned task of 8 s delays gunicorn's TERM by 8 s.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any

from .._calls.invoke import Around
from .._calls.scope import Scope
from .._runtime import events, report
from .._runtime.forks import no_fork_leaves
from .._runtime.threads import start
from ..errors import PoolClosedError
from ._deadlines import Queue, deadlines
from ._task import Task, abandon_all


class Threads:
    """Threads are started when there are more tasks than threads, up to ``size``.

    A thread whose task was abandoned while it ran is replaced, up to ``size`` of them,
    and ends with that task. Beyond that, the pool becomes smaller.
    """

    stops_running = False  # nothing can end what a thread does

    def __init__(self, size: int, max_wait: float) -> None:
        self.size = size
        self.max_wait = max_wait
        self.tasks: Queue = OrderedDict()  # that have not ended, oldest first
        self._deadlines = deadlines()
        self._deadlines.watch(self.tasks)
        # Tasks that no thread has taken, and a token for each. So a task that is no
        # longer wanted can be taken out, even while all threads hang.
        self._waiting: OrderedDict[Task, None] = OrderedDict()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0  # running ones, without those that are replaced
        self._starting: set[threading.Thread] = set()
        self._load = 0  # tasks that wait for a thread or have one; not the abandoned
        self._abandoned = 0  # tasks that run on threads which are replaced
        self.closed = False

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Task:
        """Run it as soon as a thread is free."""
        task = Task(self, pool, scope, fn, args, kwargs)
        self._enqueue(task)
        return task

    def _enqueue(self, task: Task) -> None:
        task.enter()
        try:
            if self.closed:  # after enter(): close() does it the other way round
                raise PoolClosedError(task.pool)
            if task.deadline < self._deadlines.next_look:
                self._deadlines.wake()
            with self._lock:
                # In this order: an order to stop, which may come at any line, must
                # leave the load too high rather than too low.
                self._load += 1
                self._waiting[task] = None
                more = self._needs_thread()
            self._tokens.put(None)
            # Not with the lock held: gevent's start() lets the other greenlet run.
            if more:
                self._start_thread()
        except BaseException:  # no thread can be started, or an order to stop
            task.cancel()
            self._tokens.put(None)  # cancel() may have taken another task's
            raise

    def _needs_thread(self) -> bool:
        threads = self._threads + len(self._starting)
        return not self.closed and threads < min(self.size, self._load)

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name="wsgi_defer-pool", daemon=True
        )
        try:
            with self._lock:
                if not self._needs_thread():  # any more
                    return
                self._starting.add(thread)
            start(thread)
        except BaseException as error:
            with self._lock:
                self._starting.discard(thread)
                others = self._threads or self._starting
            # Too many, or the interpreter is shutting down.
            if not (others and isinstance(error, RuntimeError)):
                raise

    def _work(self) -> None:
        if self._has_begun():
            self._run_tasks(self._run)

    def _has_begun(self) -> bool:
        """Count this thread in. False if another thread has its place: its start was
        interrupted, and happened all the same."""
        with self._lock:
            self._starting.discard(threading.current_thread())
            if self._threads + len(self._starting) >= self.size:
                return False
            self._threads += 1
            return True

    def _run_tasks(self, run: Callable[[Task], None]) -> None:
        while True:
            self._tokens.get()
            try:
                task = self._waiting.popitem(last=False)[0]
            except KeyError:  # it was taken out meanwhile
                if self.closed:
                    self._tokens.put(None)  # for the next thread
                    return
                continue
            try:
                run(task)
            except BaseException as error:  # our own fault: the thread is still good
                report.failure(
                    events.POOL_FAILED, error,
                    "the pool %r failed to run a task; it keeps running", task.pool,
                    facts={"pool": task.pool},
                )  # fmt: skip
                task.fail(error)  # nobody waits for ever
            if task.replaced:
                return
            del task  # or it would live until the next one comes

    def _run(self, task: Task) -> None:
        work = task.begin()
        if work is None:
            self.count_out(task)
            return
        context, fn, args, kwargs = work
        try:
            with no_fork_leaves():
                result = context.run(fn, *args, **kwargs)
            if type(result) is CoroutineType:
                result.close()
                raise _not_plain(task)
        except BaseException as error:
            self.count_out(task)
            task.fail(error)
        else:
            self.count_out(task)
            task.succeed(result)
        finally:
            del task, work, context, fn, args, kwargs  # frame cycle

    def count_out(self, task: Task) -> None:
        """Its function has ended, and its place is about to be free."""
        # Before its future has the result: whoever waits for that may submit the next
        # task at once.
        with self._lock:
            task.finished = True
            if task.replaced:
                self._abandoned -= 1
            else:
                self._load -= 1

    @staticmethod
    def inside(around: Around, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run it inside of what the scope has around its calls."""
        with around():
            return fn(*args, **kwargs)

    def stop(self, task: Task) -> None:
        """Give up its thread, if it has one, and start another in its place."""
        if self._take_out(task) or not task.begun:
            return
        more = False
        with self._lock:
            if task.finished:
                return
            task.replaced = replaced = self._abandoned < self.size
            if replaced:
                self._abandoned += 1
                self._threads -= 1
                self._load -= 1
                more = self._needs_thread()
        if not replaced:
            report.log(
                events.THREADS_ABANDONED,
                "the pool %r has abandoned %d tasks that still run, and does not "
                "replace the thread of one more", task.pool, self.size,
                facts={"pool": task.pool},
            )  # fmt: skip
        if more:
            self._start_thread()

    def _take_out(self, task: Task) -> bool:
        """Take it off the waiting ones. False if it is not among them."""
        if self._waiting.pop(task, task) is task:
            return False
        with self._lock:
            self._load -= 1
        if not self.closed:  # else the token may be the one that ends the threads
            try:
                self._tokens.get_nowait()
            except queue.Empty:  # a thread took it, and finds no task
                pass
        return True

    def close(self) -> None:
        """Abandon all tasks, and let the threads end when they are free."""
        self.closed = True
        abandon_all(self.tasks)
        self._deadlines.unwatch(self.tasks)
        self._tokens.put(None)

    def forget(self) -> None:
        """In a child process: all this is the parent's."""


def _not_plain(task: Task) -> TypeError:
    return TypeError(
        f"{task.label} is a coroutine function, or has called one; the pool "
        f"{task.pool!r} runs plain functions. An AsyncPool runs coroutine functions; "
        "if it is a plain one, wrap it: async def f(): return await g()"
    )
