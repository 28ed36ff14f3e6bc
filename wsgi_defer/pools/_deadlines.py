"""The thread that ends late tasks of pools, one per process.

It sleeps until the oldest task of a pool is late. All tasks of a pool have the same
time, so the oldest is the next, and a task that ends in time costs no wake-up.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Protocol

from .._runtime import events, report
from .._runtime.clock import monotonic
from .._runtime.per_process import PerProcess
from .._runtime.threads import start

LONGEST = 3600.0  # seconds to sleep at once; locks take no infinity


class Due(Protocol):
    """Has a deadline."""

    deadline: float

    def expire(self) -> None:
        """Its time is over. It leaves its queue."""


Queue = OrderedDict[Due, None]


class Deadlines:
    """Queues, each in the order of its deadlines."""

    def __init__(self) -> None:
        self.next_look = math.inf  # when the thread wakes by itself
        self._queues: dict[int, Queue] = {}
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._started = False

    # No lock in these two: the garbage collector may call them, at any line.

    def watch(self, queue: Queue) -> None:
        """Watch this queue, too."""
        self._queues[id(queue)] = queue

    def unwatch(self, queue: Queue) -> None:
        """Watch it no more."""
        self._queues.pop(id(queue), None)

    def wake(self) -> None:
        """Something was added that is due before ``next_look``."""
        try:
            with self._lock:
                first, self._started = not self._started, True
            if first:
                thread = threading.Thread(
                    target=self._work, name="wsgi_defer-deadlines", daemon=True
                )
                start(thread)
        except BaseException:
            # No thread can be started, or an order to stop came at any line. One thread
            # too many does no harm; to have none would.
            self._started = False
            raise
        self._wake.set()

    def _work(self) -> None:
        while True:
            self._wake.clear()
            # Until the look is over: what is added meanwhile wakes this thread.
            self.next_look = math.inf
            soonest = math.inf
            for queue in list(self._queues.values()):
                soonest = min(soonest, _expire(queue))
            self.next_look = soonest
            self._wake.wait(min(max(soonest - monotonic(), 0), LONGEST))


def _expire(queue: Queue) -> float:
    """Expire what is late; return when the next one is."""
    while True:
        try:
            first = next(iter(queue), None)
        except RuntimeError:  # another thread changed it meanwhile
            continue
        if first is None:
            return math.inf
        if first.deadline > monotonic():
            return first.deadline
        queue.pop(first, None)
        try:
            first.expire()
        except BaseException as error:
            report.failure(
                events.DEADLINE_FAILED, error, "ending a late task failed", facts={}
            )


deadlines = PerProcess(Deadlines)
