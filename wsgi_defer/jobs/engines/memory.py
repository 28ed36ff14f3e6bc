"""The engine of ``Jobs(None)``: jobs run in this process, and are not stored."""

from __future__ import annotations

import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from ..._calls.call import DeferredCall
from ..._calls.scope import current_scope
from ..._runtime import events, report
from ..._runtime.stop_orders import is_order_to_stop
from .._job import Job, Order, State, describe, utc
from .._progress import Progress
from .._scope import HandlerScope
from ..errors import JobNotFailedError, UnknownJobError
from ._engine import Engine, Served, check_waits

REMEMBERED = 1000  # jobs
GIVE_A_URL = "Give Jobs() a URL."


class InProcess(Engine):
    """Each job runs here, after the response, at most once.

    It is tried once, and is lost if the process ends.
    """

    title = "Jobs(None)"
    delays = False
    hints: ClassVar[Mapping[str, str]] = {
        "delay": GIVE_A_URL,
        "work": GIVE_A_URL,
        "clear": f"It only remembers the latest {REMEMBERED}.",
    }

    def __init__(self, jobs: Served) -> None:
        self.jobs = jobs
        self.known: OrderedDict[str, tuple[Job, Order]] = OrderedDict()
        self._warned = False

    def enqueue(self, order: Order) -> None:
        self.enqueue_many([order])

    def enqueue_many(self, orders: Sequence[Order]) -> None:
        """Run all of them, or none if that is too many calls for the request."""
        calls: dict[str, DeferredCall | None] = {}
        try:
            for order in orders:
                if order.id not in self.known:
                    calls[order.id] = self.put(order)
        except BaseException:
            for job_id, call in calls.items():
                if call is not None and call.cancel():
                    self.known.pop(job_id, None)
            raise

    def put(self, order: Order) -> DeferredCall | None:
        """Run it after the response, by the call that is returned, or now."""
        if not self._warned:
            self._warned = True
            report.log(
                events.JOBS_IN_MEMORY,
                "Jobs(None) has no engine: jobs run in this process, after the response"
                ", and are lost if it ends. Give it a URL, such as sqlite:///jobs.db.",
                facts={},
            )
        job = Job(order.id, order.name, "queued", enqueued_at=utc(time.time()),
                  payload=order.payload)  # fmt: skip
        before = self.known.get(order.id)
        self.remember(job, order)
        scope = current_scope()
        # Not in a block of deferring() that is over. And not inside of another job: one
        # that queues the next, and so on, would never come to its end.
        while scope is not None and (scope.closed or isinstance(scope, HandlerScope)):
            scope = scope.outer
        if scope is None:
            self._run(job, order)
            return None
        call = DeferredCall(self._run, (job, order), {}, sys._getframe())
        try:
            # It was promised, whatever comes of the request.
            scope.add(call.always(), "enqueue")
        except BaseException:
            if before is None:
                self.known.pop(order.id, None)
            else:  # a failed job, which is retried
                self.known[order.id] = before
            raise
        return call

    def remember(self, job: Job, order: Order) -> None:
        """Keep what is known of a job; forget the oldest one if there are too many."""
        self.known[job.id] = job, order
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)

    def _run(self, job: Job, order: Order) -> None:
        if self.known.get(job.id, (job, order))[0].state == "cancelled":
            return
        now = utc(time.time())
        job = replace(job, state="running", attempts=1, started_at=now)
        self.remember(job, order)
        try:
            result = self.jobs.run(order.name, order.payload, order.id, 1, last=True)
        except (Exception, SystemExit) as error:
            if is_order_to_stop(error):
                raise
            job = replace(job, state="failed", error=describe(error))
        else:
            job = replace(job, state="done", result=result)
        self.remember(replace(job, finished_at=utc(time.time())), order)

    def status(self, job_id: str) -> Job | None:
        known = self.known.get(job_id)
        return None if known is None else known[0]

    def failed(self, limit: int, name: str | None = None) -> list[Job]:
        return self.recent(limit, name, "failed")

    def recent(
        self, limit: int, name: str | None = None, state: State | None = None
    ) -> list[Job]:
        # A copy, as other threads add jobs meanwhile.
        found = [
            job
            for job, _ in reversed(list(self.known.values()))
            if name in (None, job.name) and state in (None, job.state)
        ]
        return found[:limit]

    def counts(self, by_name: bool) -> Iterable[tuple[str, State, int]]:
        jobs = [job for job, _ in list(self.known.values())]
        counted = Counter((job.name if by_name else "", job.state) for job in jobs)
        return [(*key, number) for key, number in counted.items()]

    def cancel(self, job_id: str) -> None:
        known = self.known.get(job_id)
        if known is None:
            raise UnknownJobError(job_id)
        job, order = known
        if check_waits(job_id, job.state):
            ended = replace(job, state="cancelled", finished_at=utc(time.time()))
            self.remember(ended, order)

    def retry(self, job_id: str) -> None:
        known = self.known.get(job_id)
        if known is None:
            raise UnknownJobError(job_id)
        if known[0].state != "failed":
            raise JobNotFailedError(job_id, known[0].state)
        self.put(known[1])

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        known = self.known.get(job_id)
        if known is not None:
            self.remember(replace(known[0], progress=progress), known[1])

    def close(self) -> None:
        """There is nothing to close."""
