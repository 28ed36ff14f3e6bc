"""A pool of daemon threads, of which none is waited for.

Not ``ThreadPoolExecutor``: the interpreter joins its threads at exit, so that one
abandoned job of 8 s delays gunicorn's TERM by 8 s.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any

from ._call import Around
from ._deadlines import Queue, deadlines
from ._job import Job, end_all
from ._scope import Scope
from .errors import PoolClosedError

logger = logging.getLogger("wsgi_defer")


class Threads:
    """Threads are started when there are more jobs than threads, up to ``size``.

    One whose job was abandoned while it ran is replaced, up to ``size`` of them, and
    ends with that job. Beyond that, the pool is as much smaller.
    """

    stops_running = False  # nothing can end what a thread does

    def __init__(self, size: int, max_wait: float) -> None:
        self.size = size
        self.max_wait = max_wait
        self.jobs: Queue = OrderedDict()  # that have not ended, oldest first
        self._deadlines = deadlines()
        self._deadlines.watch(self.jobs)
        # Jobs that no thread has taken, and a token for each. So one that nobody wants
        # any more can be taken out, even while all threads hang.
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0  # that run, without those that are replaced
        self._starting: set[threading.Thread] = set()
        self._load = 0  # jobs that wait for a thread or have one; not the abandoned
        self._abandoned = 0  # jobs that run on threads which are replaced
        self._closed = False

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Job:
        """Run it as soon as a thread is free."""
        job = Job(self, pool, scope, fn, args, kwargs)
        self._enqueue(job)
        return job

    def _enqueue(self, job: Job) -> None:
        job.enter()
        try:
            if self._closed:  # after enter(): close() looks the other way round
                raise PoolClosedError(job.pool)
            if job.deadline < self._deadlines.next_look:
                self._deadlines.wake()
            with self._lock:
                # In this order: an order to stop, which may come at any line, is to
                # leave the load too high rather than too low.
                self._load += 1
                self._waiting[job] = None
                more = self._needs_thread()
            self._tokens.put(None)
            # Not with the lock held: gevent's start() lets the other greenlet run.
            if more:
                self._start_thread()
        except BaseException:  # no thread can be started, or an order to stop
            job.cancel()
            self._tokens.put(None)  # that may have taken one of another job
            raise

    def _needs_thread(self) -> bool:
        threads = self._threads + len(self._starting)
        return not self._closed and threads < min(self.size, self._load)

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name="wsgi_defer-pool", daemon=True
        )
        try:
            with self._lock:
                if not self._needs_thread():  # any more
                    return
                self._starting.add(thread)
            thread.start()
        except BaseException as error:
            with self._lock:
                self._starting.discard(thread)
                others = self._threads or self._starting
            # Too many, or the interpreter is shutting down.
            if not (others and isinstance(error, RuntimeError)):
                raise

    def _work(self) -> None:
        if self._has_begun():
            self._run_jobs(self._run)

    def _has_begun(self) -> bool:
        """Count this thread in. False if another one has its place: its start was
        broken off, and happened all the same."""
        with self._lock:
            self._starting.discard(threading.current_thread())
            if self._threads + len(self._starting) >= self.size:
                return False
            self._threads += 1
            return True

    def _run_jobs(self, run: Callable[[Job], None]) -> None:
        while True:
            self._tokens.get()
            try:
                job = self._waiting.popitem(last=False)[0]
            except KeyError:  # it was taken out at this moment
                if self._closed:
                    self._tokens.put(None)  # for the next thread
                    return
                continue
            try:
                run(job)
            except BaseException:  # ours: the thread is still good
                logger.exception("the pool failed to run a job; it goes on")
            if job.replaced:
                return
            del job  # not while it waits for the next one

    def _run(self, job: Job) -> None:
        work = job.begin()
        if work is None:
            self._count_out(job)
            return
        context, fn, args, kwargs = work
        try:
            result = context.run(fn, *args, **kwargs)
            if type(result) is CoroutineType:
                result.close()
                raise _not_plain(job)
        except BaseException as error:
            self._count_out(job)
            job.fail(error)
        else:
            self._count_out(job)
            job.succeed(result)
        finally:
            # The traceback of an error has this frame.
            del job, work, context, fn, args, kwargs

    def _count_out(self, job: Job) -> None:
        # Before its future has the result: who waits for that may submit the next job
        # at once, and this thread is about to be free.
        with self._lock:
            job.finished = True
            if job.replaced:
                self._abandoned -= 1
            else:
                self._load -= 1

    @staticmethod
    def inside(around: Around, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run it inside of what the scope has around its calls."""
        with around():
            return fn(*args, **kwargs)

    def stop(self, job: Job) -> None:
        """Let its thread go, if it has one, and take another one in its place."""
        if self._take_out(job) or not job.begun:
            return
        more = False
        with self._lock:
            if job.finished:
                return
            job.replaced = replaced = self._abandoned < self.size
            if replaced:
                self._abandoned += 1
                self._threads -= 1
                self._load -= 1
                more = self._needs_thread()
        if not replaced:
            logger.warning(
                "the pool %r has abandoned %d jobs that still run, and does not "
                "replace the thread of one more", job.pool, self.size,
            )  # fmt: skip
        if more:
            self._start_thread()

    def _take_out(self, job: Job) -> bool:
        """Let it wait no more. False if it does not."""
        if self._waiting.pop(job, job) is job:
            return False
        with self._lock:
            self._load -= 1
        if not self._closed:  # else it may be the one that ends the threads
            try:
                self._tokens.get_nowait()
            except queue.Empty:  # a thread has it, and finds nothing
                pass
        return True

    def close(self) -> None:
        """End the jobs that there are, and let the threads end when they are free."""
        self._closed = True
        end_all(self.jobs)
        self._deadlines.unwatch(self.jobs)
        self._tokens.put(None)

    def forget(self) -> None:
        """In a child process: its parent has all this."""


def _not_plain(job: Job) -> TypeError:
    return TypeError(
        f"{job.label} is a coroutine function, or has called one; the pool "
        f"{job.pool!r} runs plain functions. An AsyncPool runs coroutine functions; if "
        "it is a plain one, wrap it: async def f(): return await g()"
    )
