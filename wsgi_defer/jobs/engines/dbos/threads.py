"""DBOS's own threads, which wait for a bell instead of looking all the time.

Left alone, DBOS (3.4) looks for a job at fixed intervals only, and asks the database
seven times a second for what no job needs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dbos._dbos
import sqlalchemy as sa
from dbos import DBOS
from dbos._queue import queue_worker_thread

from ...errors import JobsUnavailable
from .bells import LOOK, Bell

SWEEP = 5.0  # seconds between two looks at delayed jobs, if none is due before


class Threads:
    """The threads that ``DBOS.launch()`` starts next: they run ``most`` jobs at a time.

    Made between ``DBOS()`` and ``DBOS.launch()``.
    """

    def __init__(self, bell: Bell, queue: str, most: int) -> None:
        self._bell = bell
        self._queue = queue
        self._most = most
        self._changed = threading.Condition()
        self._looking = True
        self._running = 0  # claimed, and the outcome is not yet stored
        bell.has_room = lambda: self._running < most
        # DBOS finds them there (3.4). No job has one of DBOS's schedules.
        dbos._dbos.queue_thread = self._look  # type: ignore
        dbos._dbos.dynamic_scheduler_loop = lambda *args: None  # type: ignore

    def ended(self, patience: float) -> bool:
        """Whether no job runs any more, nor is about to start, so many seconds later.

        The bell must be stopped before.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._looking and not self._running, patience
            )

    def _look(self, stop: threading.Event, launched: DBOS) -> None:
        """In place of DBOS's thread that starts one for each queue."""
        launched._executor_field = Executor(self._count)
        engine = launched._sys_db.engine
        if engine.dialect.name == "sqlite":
            save_syncs(engine, threading.get_ident())
        # Not the one in the database. Other workers may run other numbers of jobs.
        queue = launched._registry._register_internal_queue(
            self._queue, worker_concurrency=self._most
        )
        # DBOS's tools put into its own queue what they resume.
        internal = threading.Thread(
            target=queue_worker_thread,
            args=(Seldom(stop), launched, launched._registry.get_internal_queue()),
            daemon=True,
        )
        internal.start()
        try:
            queue_worker_thread(AtBell(self._bell), launched, queue)
        finally:
            stop.set()
            internal.join()
            with self._changed:
                self._looking = False
                self._changed.notify_all()

    def _count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()
        if change < 0:
            self._bell.ring()


class Executor(ThreadPoolExecutor):
    """Runs workflows, and tells of each that it has got (1) and has ended (-1)."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        super().__init__(max_workers=2**20, thread_name_prefix="job")
        self._tell = tell

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        # Now, as DBOS counts a workflow only when its thread has started.
        self._tell(1)
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._tell(-1)
            raise
        future.add_done_callback(lambda future: self._tell(-1))
        return future


class AtBell(threading.Event):
    """What DBOS's loop takes for the event that stops it: waits at the bell."""

    def __init__(self, bell: Bell) -> None:
        super().__init__()
        self._bell = bell

    def is_set(self) -> bool:
        return self._bell.stopped

    def wait(self, timeout: float | None = None) -> bool:
        self._bell.wait()
        return self._bell.stopped


class Seldom(threading.Event):
    """The same, for a queue that is nearly always empty."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def is_set(self) -> bool:
        return self._stop.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._stop.wait(LOOK)


class Sweeps(threading.Event):
    """The same, for the thread that queues delayed jobs: waits until one is due.

    ``next_due`` returns when that is, as a Unix time, or None.
    """

    def __init__(self, bell: Bell, next_due: Callable[[], float | None]) -> None:
        super().__init__()
        self._bell = bell
        self._next_due = next_due
        self._due: float | None = None  # what DBOS has just queued
        self._changed = threading.Event()
        bell.later = self._changed.set

    def set(self) -> None:
        super().set()
        self._changed.set()

    def wait(self, timeout: float | None = None) -> bool:
        if not timeout:
            return self.is_set()
        if self._due is not None:
            self._bell.ring()
        before, self._due = self._due, None
        until = time.monotonic() + SWEEP
        while not self.is_set():
            self._changed.clear()
            due, left = self._ask(), until - time.monotonic()
            if due is not None and due == before:
                # DBOS could not queue it. It tries again, but not at once.
                self._changed.wait(timeout)
                self._due = due
                break
            if due is not None and due <= time.time():
                self._due = due
                break
            if left <= 0:
                break
            self._changed.wait(left if due is None else min(left, due - time.time()))
        return self.is_set()

    def _ask(self) -> float | None:
        try:
            return self._next_due()
        except JobsUnavailable:
            return None


def save_syncs(engine: sa.Engine, claiming: int) -> None:
    """Let SQLite not wait for the disk when that thread marks a job as running.

    The mark is on the disk before the job's outcome is. If the power fails before, the
    job has not run to its end, and is run again, with the mark or without.
    """

    @sa.event.listens_for(engine, "checkout")
    def choose(connection: Any, record: Any, proxy: Any) -> None:
        mode = "NORMAL" if threading.get_ident() == claiming else "FULL"
        connection.execute(f"PRAGMA synchronous = {mode}")
