"""A pool of child processes: a pool of threads, each of which has a child."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ._job import Job
from ._process_child import RAISED, UNPICKLABLE, why_not
from ._process_handle import Child
from ._scope import Scope
from ._thread_pool import Threads
from .errors import RemoteTraceback, UnpicklableError, WorkerDiedError


class Processes(Threads):
    """A job that is not wanted any more is ended by ending its child."""

    stops_running = True

    def __init__(self, size: int, max_wait: float) -> None:
        super().__init__(size, max_wait)
        # Reentrant: the collector may close the pool at any line.
        self.serving_lock = threading.RLock()
        self.serving: dict[Job, Child] = {}
        self.children: set[Child] = set()

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Job:
        """Raises ``UnpicklableError``, too."""
        job = Job(self, pool, scope, fn, (), {})
        try:
            job.payload = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            why = _culprit((fn, *args, *kwargs.values()), error)
        else:
            self._enqueue(job)
            return job
        # Here, where no other error is its context: logs would show its text.
        raise UnpicklableError(pool, job.label, "call", why)

    def _work(self) -> None:
        if not self._has_begun():
            return
        place = Place(self)
        try:
            self._run_jobs(place.run)
        finally:
            place.end()

    def stop(self, job: Job) -> None:
        """End the child that runs it."""
        if self._take_out(job):
            return
        with self.serving_lock:
            child = self.serving.get(job)
            if child is not None:
                child.kill()

    def close(self) -> None:
        """End all children, whatever they do."""
        super().close()
        for child in list(self.children):
            child.kill()

    def forget(self) -> None:
        """In a process that this one has forked: the children are not its own."""
        for child in list(self.children):
            child.forget()
        self.children, self.serving = set(), {}
        self.serving_lock = threading.RLock()  # another thread may have held it


class Place:
    """Where one job runs at a time: a child, started and replaced as needed."""

    def __init__(self, pool: Processes) -> None:
        self._pool = pool
        self._child: Child | None = None

    def run(self, job: Job) -> None:
        """Run it in the child, and end the job with what comes back."""
        if job.begin() is None:
            self._pool._count_out(job)
            return
        answer = None
        error: BaseException | None = None
        try:
            answer = self._ask(job)
        except (EOFError, OSError):
            error = WorkerDiedError(job.pool, job.label, self.end())
        except BaseException as caught:
            self.end()
            error = caught
        else:
            # It was to be ended with this job, which had just ended by itself: the next
            # one is not to have it.
            if self._child is not None and self._child.doomed:
                self.end()
        self._pool._count_out(job)
        try:
            if error is not None:
                job.fail(error)
            elif answer is not None:
                _take(job, answer)
        finally:
            del job, error  # the traceback of an error may have this frame

    def _ask(self, job: Job) -> bytearray | None:
        pool = self._pool
        child = self._child
        fresh = child is None or not child.is_ready  # it has died, with nothing to do
        if child is None or fresh:
            self.end()
            child = self._child = Child()
        with pool.serving_lock:
            payload, job.payload = job.payload, b""
            # Nobody wants it any more. It may have let go of that, and not be done.
            if job.done() or not payload:
                return None
            pool.serving[job] = child
            pool.children.add(child)
            if pool._closed:
                child.kill()
        try:
            if fresh:
                child.start(job.pool)
            return child.ask(payload)
        finally:
            with pool.serving_lock:
                del pool.serving[job]
            del job, payload  # the traceback of an error has this frame

    def end(self) -> int | None:
        """The child is of no use any more. Returns its exit code, if it has one."""
        child, self._child = self._child, None
        if child is None:
            return None
        exitcode = child.end()
        self._pool.children.discard(child)
        return exitcode


def _culprit(parts: tuple[object, ...], error: Exception) -> str:
    """Which of them cannot be pickled."""
    for part in parts:
        try:
            pickle.dumps(part)
        except Exception as error_of_it:
            return why_not(part, error_of_it)
    return type(error).__name__


def _take(job: Job, answer: bytearray) -> None:
    """End the job with the answer of its child."""
    kind, content = answer[:1], memoryview(answer)[1:]
    if kind == UNPICKLABLE:
        job.fail(UnpicklableError(job.pool, job.label, "result", str(content, "utf-8")))
        return
    try:
        result = pickle.loads(content)  # noqa: S301 - our own child's
    except BaseException as error:  # of a class that is not here
        why = f"{type(error).__name__} where it arrived"
    else:
        if kind == RAISED:
            raised, text = result
            raised.__cause__ = RemoteTraceback(text)
            job.fail(raised)
        else:
            job.succeed(result)
        return
    job.fail(UnpicklableError(job.pool, job.label, "result", why))
