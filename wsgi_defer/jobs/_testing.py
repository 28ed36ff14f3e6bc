"""The engines of ``jobs.eager()`` and ``jobs.captured()``, for tests."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from ._carrier import parted
from ._job import Job, Order, utc
from .engines._engine import Served
from .engines.memory import InProcess


class Eager(InProcess):
    """Each job runs inside ``enqueue()``, which raises what the handler raises."""

    title = "jobs.eager()"
    holds = False
    delays = True

    def put(self, order: Order) -> None:
        started = utc(time.time())
        result = self.jobs.run(order.name, order.payload, order.id, 1, last=True)
        job = Job(order.id, order.name, "done", 1, enqueued_at=started,
                  started_at=started, finished_at=utc(time.time()),
                  result=result, payload=order.payload)  # fmt: skip
        self.remember(job, order)


class Capturing(InProcess):
    """No job runs; each is put on a list."""

    title = "jobs.captured()"
    delays = True

    def __init__(self, jobs: Served) -> None:
        super().__init__(jobs)
        self.captured: list[Captured] = []

    def put(self, order: Order) -> None:
        now = time.time()
        job = Job(order.id, order.name, "scheduled" if order.delay else "queued",
                  enqueued_at=utc(now), due_at=utc(now + order.delay),
                  payload=order.payload)  # fmt: skip
        self.remember(job, order)
        payload = json.loads(parted(order.payload)[0])
        self.captured.append(Captured(order.id, order.name, payload, order.delay))


@dataclass(frozen=True)
class Captured:
    """A job that ``jobs.captured()`` has caught. ``delay`` is in seconds."""

    id: str
    name: str
    payload: Any
    delay: float
