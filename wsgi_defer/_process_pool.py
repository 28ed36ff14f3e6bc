"""A pool of child processes: a pool of threads, each of which has a child."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from . import _process_child
from ._job import Job
from ._process_child import RAISED, RESULT
from ._scope import Scope
from ._thread_pool import Threads
from .errors import RemoteTraceback, UnpicklableError, WorkerDiedError

# Never fork: a child would hold the listening socket, and locks of other threads.
METHODS = ("forkserver", "spawn")
KILLED_WAIT = 5.0  # seconds for the kernel to end a child


class Processes(Threads):
    """A job that is not wanted any more is ended by ending its child."""

    stops_running = True

    def __init__(self, size: int, max_wait: float) -> None:
        super().__init__(size, max_wait)
        known = multiprocessing.get_all_start_methods()
        self.method = next(name for name in METHODS if name in known)
        self.serving: dict[Job, Child] = {}
        self.serving_lock = threading.Lock()
        self.children: set[Child] = set()
        # Before multiprocessing's own, which waits for children that ignore its TERM.
        atexit.register(self.close)

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
            call = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise UnpicklableError(pool, job.label, "call") from error
        job.payload = call
        self._enqueue(job)
        return job

    def _make_run(self) -> Callable[[Job], None]:
        return Child(self).run

    def stop(self, job: Job) -> None:
        """End the child that runs it."""
        with self.serving_lock:
            child = self.serving.get(job)
            if child is not None:
                child.kill()

    def close(self) -> None:
        """End all children, whatever they do."""
        atexit.unregister(self.close)
        super().close()
        for child in list(self.children):
            child.kill()

    def forget(self) -> None:
        """In a child process that the app has forked: its parent has all this."""
        atexit.unregister(self.close)
        for child in list(self.children):
            child.forget()


class Child:
    """A process that runs one job at a time, started and replaced as needed.

    For the one thread that it belongs to, but for ``kill()``.
    """

    def __init__(self, pool: Processes) -> None:
        self._pool = pool
        self._process: Any = None
        self._connection: Connection | None = None

    def run(self, job: Job) -> None:
        """Run it in the process, and end the job with what comes back."""
        if job.begin() is None:
            self._pool._count_out(job)
            return
        label, answer = job.label, None
        error: BaseException | None = None
        try:
            answer = self._ask(job)
        except (EOFError, OSError) as caught:
            started = self._process is not None
            exitcode = self._end()
            error = WorkerDiedError(job.pool, label, exitcode) if started else caught
        except BaseException as caught:
            self._end()
            error = caught
        self._pool._count_out(job)
        try:
            if error is not None:
                job.fail(error)
            elif answer is not None:
                _take(job, label, answer)
        finally:
            del job, error  # the traceback of an error may have this frame

    def _ask(self, job: Job) -> bytes | None:
        if self._connection is None:
            self._start()
        pool = self._pool
        with pool.serving_lock:
            if job.done():  # nobody wants it any more, while the child was started
                return None
            pool.serving[job] = self
        try:
            self._send(job)
            return self._connection.recv_bytes()  # type: ignore[union-attr]
        finally:
            with pool.serving_lock:
                del pool.serving[job]

    def _send(self, job: Job) -> None:
        data = job.payload
        try:
            self._connection.send_bytes(data)  # type: ignore[union-attr]
        except OSError:
            # It died while it had nothing to do, so it has not begun with this.
            self._end()
            self._start()
            if job.done():  # there was no child, when it was to be ended
                self.kill()
            self._connection.send_bytes(data)  # type: ignore[union-attr]

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(self._pool.method)
        ours, theirs = context.Pipe()
        try:
            process = context.Process(
                target=_process_child.serve,
                args=(theirs, self._pool.method == "forkserver"),
                name="wsgi_defer-pool",
                daemon=True,
            )
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._process, self._connection = process, ours
        self._pool.children.add(self)
        if self._pool._closed:
            self.kill()

    def kill(self) -> None:
        """End the process. From any thread."""
        process = self._process
        if process is not None:
            try:
                process.kill()
            except ValueError:  # closed, at this moment
                pass

    def forget(self) -> None:
        """Close what this process holds of it, and leave it alone."""
        if self._connection is not None:
            self._connection.close()

    def _end(self) -> int | None:
        """The process is of no use any more. Returns its exit code, if it has one."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        self._pool.children.discard(self)
        if connection is not None:
            connection.close()
        if process is None:
            return None
        process.join(1)  # it may be about to end by itself, with a code that tells
        if process.exitcode is None:
            process.kill()
            process.join(KILLED_WAIT)
        exitcode: int | None = process.exitcode
        if exitcode is not None:
            process.close()
        return exitcode


def _take(job: Job, label: str, answer: bytes) -> None:
    """End the job with the answer of its child."""
    try:
        content = pickle.loads(memoryview(answer)[1:])  # noqa: S301 - our own child's
    except Exception as error:  # of a class that is not here
        job.fail(_unpicklable(job, label, error))
        return
    if answer[:1] == RESULT:
        job.succeed(content)
        return
    raised: BaseException = content[0]
    raised.__cause__ = RemoteTraceback(content[1])
    job.fail(raised if answer[:1] == RAISED else _unpicklable(job, label, raised))


def _unpicklable(job: Job, label: str, cause: BaseException) -> UnpicklableError:
    error = UnpicklableError(job.pool, label, "result")
    error.__cause__ = cause
    return error
