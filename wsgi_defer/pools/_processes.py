"""A pool of child processes: a pool of threads, each of which has a child."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .._calls.scope import Scope
from ..errors import RemoteTraceback, UnpicklableError, WorkerDiedError
from ._child import Child
from ._in_child import RAISED, UNPICKLABLE, why_not
from ._task import Task
from ._threads import Threads


class Processes(Threads):
    """A task that is no longer wanted ends with its child."""

    stops_running = True

    def __init__(self, size: int, max_wait: float) -> None:
        super().__init__(size, max_wait)
        # Reentrant: the garbage collector may close the pool at any line.
        self.serving_lock = threading.RLock()
        self.serving: dict[Task, Child] = {}
        self.children: set[Child] = set()

    def submit(
        self,
        pool: str,
        scope: Scope,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Task:
        """Raises ``UnpicklableError``, too."""
        task = Task(self, pool, scope, fn, (), {})
        try:
            task.payload = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            why = _culprit((fn, *args, *kwargs.values()), error)
        else:
            self._enqueue(task)
            return task
        # Outside of the except: as its context, the other error would be in logs.
        raise UnpicklableError(pool, task.label, "call", why)

    def _work(self) -> None:
        if not self._has_begun():
            return
        place = Place(self)
        try:
            self._run_tasks(place.run)
        finally:
            place.retire()

    def stop(self, task: Task) -> None:
        """End the child that runs it."""
        if self._take_out(task):
            return
        with self.serving_lock:
            child = self.serving.get(task)
            if child is not None:
                child.kill()

    def close(self) -> None:
        """Kill all children, whatever they do."""
        super().close()
        for child in list(self.children):
            child.kill()

    def forget(self) -> None:
        """In a process that this one has forked: the children are the parent's."""
        for child in list(self.children):
            child.forget()
        self.children, self.serving = set(), {}
        self.serving_lock = threading.RLock()  # another thread may have held it


class Place:
    """One child at a time, which runs one task at a time; replaced as needed."""

    def __init__(self, pool: Processes) -> None:
        self._pool = pool
        self._child: Child | None = None

    def run(self, task: Task) -> None:
        """Run it in the child, and end it with what comes back."""
        if task.begin() is None:
            self._pool.count_out(task)
            return
        answer = None
        error: BaseException | None = None
        try:
            answer = self._ask(task)
        except (EOFError, OSError):
            error = WorkerDiedError(task.pool, task.label, self.retire())
        except BaseException as caught:
            self.retire()
            error = caught
        else:
            # It was killed because of this task, which had just ended by itself: the
            # next task must not get it.
            if self._child is not None and self._child.doomed:
                self.retire()
        self._pool.count_out(task)
        try:
            if error is not None:
                task.fail(error)
            elif answer is not None:
                _take(task, answer)
        finally:
            del task, error  # frame cycle

    def _ask(self, task: Task) -> bytearray | None:
        pool = self._pool
        child = self._child
        fresh = child is None or not child.is_ready  # it died while it was idle
        if child is None or fresh:
            self.retire()
            child = self._child = Child()
        with pool.serving_lock:
            payload, task.payload = task.payload, b""
            # It is no longer wanted. Its payload goes a moment before it is done.
            if task.done() or not payload:
                return None
            pool.serving[task] = child
            pool.children.add(child)
            if pool.closed:
                child.kill()
        try:
            if fresh:
                child.start(task.pool)
            return child.ask(payload)
        finally:
            with pool.serving_lock:
                del pool.serving[task]
            del task, payload  # frame cycle

    def retire(self) -> int | None:
        """Give up the child. Returns its exit code, if it has one."""
        child, self._child = self._child, None
        if child is None:
            return None
        exitcode = child.wait_for_end()
        self._pool.children.discard(child)
        return exitcode


def _culprit(parts: tuple[object, ...], error: Exception) -> str:
    """Why they cannot be pickled: the first part that cannot."""
    for part in parts:
        try:
            pickle.dumps(part)
        except Exception as error_of_it:
            return why_not(part, error_of_it)
    return type(error).__name__


def _take(task: Task, answer: bytearray) -> None:
    """End the task with its child's answer."""
    kind, content = answer[:1], memoryview(answer)[1:]
    if kind == UNPICKLABLE:
        task.fail(
            UnpicklableError(task.pool, task.label, "result", str(content, "utf-8"))
        )
        return
    try:
        result = pickle.loads(content)  # noqa: S301 - our own child's
    except BaseException as error:  # a class that does not exist here, for one
        why = f"{type(error).__name__} where it arrived"
    else:
        if kind == RAISED:
            raised, text = result
            with suppress(Exception):  # one that refuses attributes
                raised.__cause__ = RemoteTraceback(text)
            task.fail(raised)
        else:
            task.succeed(result)
        return
    task.fail(UnpicklableError(task.pool, task.label, "result", why))
