"""Enqueues the jobs that are due again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Protocol

from .._runtime import events, report
from ._job import Job, utc
from ._notices import EachMinute
from ._schedule import Schedule
from ._worklog import tell_unavailable
from .errors import JobsUnavailable

LONGEST_WAIT = 5.0  # seconds; the clock may be set meanwhile
AGAIN = 1.0  # seconds after which it tries again if the engine does not answer
FARTHEST = timedelta(days=300)  # what is due later is not enqueued yet
LOOK_BACK = 50  # times of a schedule
LATE = timedelta(minutes=1)  # a busy machine looks that late, and leaves out no time


class Enqueuing(Protocol):
    """What it needs of ``Jobs``."""

    def enqueue(
        self, name: str, payload: object, *, job_id: str, delay: float, hold: bool
    ) -> str: ...

    def status(self, job_id: str) -> Job | None: ...


class Scheduler:
    """Enqueues the next job of each schedule before it is due, with a delay until then.

    So while no worker runs, that one job waits in the engine, and stands for all that
    are missed. Its id is made of the name and the time, so that of several schedulers,
    all but one change nothing.
    """

    def __init__(self, jobs: Enqueuing, schedules: Iterable[Schedule]) -> None:
        self._jobs = jobs
        self._schedules = list(schedules)
        self._ahead: dict[str, datetime] = {}  # by name: the one that is enqueued
        self._looked: dict[str, datetime] = {}  # by name: when, the last time
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="wsgi_defer-schedule", daemon=True)
        self._notices = EachMinute()

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after what it is about to enqueue."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            wait = LONGEST_WAIT
            for schedule in self._schedules:
                try:
                    due = self.look(schedule, now())
                    wait = min(wait, (due - now()).total_seconds())
                except JobsUnavailable as error:
                    wait = AGAIN
                    if self._notices.due(schedule.name):
                        tell_unavailable(error)
                except Exception as error:
                    wait = AGAIN
                    if self._notices.due(schedule.name):
                        report.failure(
                            events.SCHEDULE_FAILED, error, "the schedule of %s failed",
                            schedule.name, facts={"schedule": schedule.name},
                        )  # fmt: skip
            wait = max(wait, 0.0)

    def look(self, schedule: Schedule, at: datetime) -> datetime:
        """Enqueue what is missing at that moment; return when the next is due."""
        known = self._ahead.get(schedule.name)
        last, following = schedule.until(at), schedule.after(at)
        if known is None:
            missed = [last] if self._was_missed(schedule, last) else []
        elif at - self._looked[schedule.name] <= LATE:
            missed = self._between(schedule, known, last)
        else:  # the machine slept, or the engine was away
            missed = [last] if last > known and not self._waits(schedule, known) else []
        for due in missed:
            self._enqueue(schedule, due, at)
        if following - at >= FARTHEST:
            self._ahead[schedule.name] = last
        elif following != known:
            self._enqueue(schedule, following, at)
            self._ahead[schedule.name] = following
        self._looked[schedule.name] = at
        return following

    def _between(
        self, schedule: Schedule, known: datetime, last: datetime
    ) -> list[datetime]:
        """The times after the known one, up to the last."""
        found = []
        while last > known:
            found.append(last)
            last = schedule.until(last - timedelta(seconds=1))
        return found[::-1]

    def _waits(self, schedule: Schedule, due: datetime) -> bool:
        """Whether the job of that time is still to run, and so stands for later ones.

        The clock may jump, as that of a machine that was suspended.
        """
        job = self._jobs.status(schedule.id(due))
        if job is None or job.started_at is not None:
            return False
        return job.state in ("queued", "scheduled")

    def _was_missed(self, schedule: Schedule, last: datetime) -> bool:
        """Whether the last time was missed, and no job stands for it.

        That is so if the last worker ended right after a time came, before it had
        enqueued the next. A schedule without any job is a new one. A failed job proves
        nothing: it is kept for longer than the later ones that were done.
        """
        if self._jobs.status(schedule.id(schedule.after(last))) is not None:
            return False  # it is enqueued after the last one
        due, later = last, last
        for _ in range(LOOK_BACK):
            job = self._jobs.status(schedule.id(due))
            if job is not None:
                ran_in_time = job.started_at is not None and job.started_at < later
                return due < last and ran_in_time and job.state != "failed"
            due, later = schedule.until(due - timedelta(seconds=1)), due
        return False

    def _enqueue(self, schedule: Schedule, due: datetime, at: datetime) -> None:
        delay = max((due - at).total_seconds(), 0.0)
        self._jobs.enqueue(
            schedule.name, schedule.payload, job_id=schedule.id(due), delay=delay,
            hold=False,
        )  # fmt: skip


def now() -> datetime:
    """The time, in UTC."""
    moment = utc(time.time())
    assert moment is not None
    return moment
