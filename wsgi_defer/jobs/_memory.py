"""The engines that store nothing: in this process, at once, or only on a list."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .._call import DeferredCall
from .._host import is_order_to_stop
from .._scope import current_scope
from ._job import Job, Order, describe, utc
from .errors import JobNotFailedError, NotSupported, UnknownJobError

if TYPE_CHECKING:
    from ._jobs import Jobs

logger = logging.getLogger("wsgi_defer")
KEPT = 1000  # jobs whose end is remembered


class InProcess:
    """Without an engine: each job runs here, after the response, at most once.

    It is tried once, and nothing of it outlives the process.
    """

    title = "Jobs(None)"
    own_processes = False
    holds = True
    delays = False

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._known: OrderedDict[str, tuple[Job, Order]] = OrderedDict()
        self._warned = False

    def enqueue(self, order: Order) -> None:
        """Run it when the response is out; at once, where there is no request."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "Jobs(None) has no engine: jobs run in this process, after the response"
                ", and are lost if it ends. Give it a URL, such as sqlite:///jobs.db."
            )
        if order.id in self._known:
            return
        self._queue(order)

    def _queue(self, order: Order) -> None:
        job = Job(order.id, order.name, "queued", enqueued_at=utc(time.time()))
        self._note(job, order)
        scope = current_scope()
        while scope is not None and scope.closed:  # a block of deferring() that is over
            scope = scope._outer
        if scope is None:
            self._run(job, order)
            return
        call = DeferredCall(self._run, (job, order), {}, sys._getframe())
        try:
            scope.add(call.always(), "enqueue")  # it was promised, whatever comes
        except BaseException:
            del self._known[order.id]
            raise

    def _note(self, job: Job, order: Order) -> None:
        self._known[job.id] = job, order
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _run(self, job: Job, order: Order) -> None:
        now = utc(time.time())
        job = replace(job, state="running", attempts=1, started_at=now)
        self._note(job, order)
        try:
            result = self._jobs.run(order.name, order.payload, order.id, 1, last=True)
        except (Exception, SystemExit) as error:
            if is_order_to_stop(error):
                raise
            job = replace(job, state="failed", error=describe(error))
        else:
            job = replace(job, state="done", result=result)
        self._note(replace(job, finished_at=utc(time.time())), order)

    def status(self, job_id: str) -> Job | None:
        known = self._known.get(job_id)
        return None if known is None else known[0]

    def failed(self, limit: int) -> list[Job]:
        return [job for job in self.recent(KEPT) if job.state == "failed"][:limit]

    def recent(self, limit: int) -> list[Job]:
        return [job for job, _ in reversed(self._known.values())][:limit]

    def retry(self, job_id: str) -> None:
        known = self._known.get(job_id)
        if known is None:
            raise UnknownJobError(job_id)
        if known[0].state != "failed":
            raise JobNotFailedError(job_id, known[0].state)
        self._queue(known[1])

    def clear(self, before: float) -> int:
        raise NotSupported(
            self.title, "clear done jobs", f"It remembers the latest {KEPT} only."
        )

    def work(self, slot: int, processes: int) -> None:
        raise NotSupported(self.title, "have workers", "Give Jobs() a URL.")

    def close(self) -> None:
        """There is nothing to close."""


class Eager(InProcess):
    """For tests: each job runs inside ``enqueue()``, which raises what it raises."""

    title = "jobs.eager()"
    holds = False
    delays = True

    def enqueue(self, order: Order) -> None:
        if order.id in self._known:
            return
        begun = utc(time.time())
        result = self._jobs.run(order.name, order.payload, order.id, 1, last=True)
        job = Job(order.id, order.name, "done", 1, enqueued_at=begun, started_at=begun,
                  finished_at=utc(time.time()), result=result)  # fmt: skip
        self._note(job, order)


class Capturing(InProcess):
    """For tests: nothing runs."""

    title = "jobs.captured()"
    delays = True

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs)
        self.captured: list[Captured] = []

    def enqueue(self, order: Order) -> None:
        if order.id in self._known:
            return
        now = time.time()
        job = Job(order.id, order.name, "scheduled" if order.delay else "queued",
                  enqueued_at=utc(now), due_at=utc(now + order.delay))  # fmt: skip
        self._note(job, order)
        payload = json.loads(order.payload)
        self.captured.append(Captured(order.id, order.name, payload, order.delay))


@dataclass(frozen=True)
class Captured:
    """A job that ``jobs.captured()`` has caught. ``delay`` is in seconds."""

    id: str
    name: str
    payload: Any
    delay: float
