"""One worker process of DBOS."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import dbos._sys_db
from dbos import DBOS

from ...._runtime import events, report
from ..._attempt import Attempt, AttemptFailed
from ..._job import MOST_CRASHES
from ..._notices import EachMinute
from ..._worklog import tell_unavailable
from ...errors import JobsUnavailable
from .. import _words
from .._engine import Served
from .bells import Bell
from .database import QUIET
from .serializer import Json, refuse_pickles
from .slots import Slots, take_one
from .tables import FIRST, NEXT, Serial, from_arguments, is_attempt
from .threads import Sweeps, Threads

POLLING = 0.1  # seconds after which a worker that nobody wakes looks for a job
RESCUE = 5.0  # seconds between two looks for jobs of dead workers
STORING = 10.0  # seconds in which one that is to stop tries to store the next attempt


class Client(Protocol):
    """What a worker needs of the engine's client."""

    jobs: Served
    title: str
    url: str
    queue: str
    owner: str
    serial: Serial

    def reaching(self, doing: str) -> AbstractContextManager[None]: ...

    def register_queue(self, polling: float) -> None: ...

    def ring(self) -> None: ...

    def bell(self, slot: int, polling: float) -> Bell: ...

    def next_due(self) -> float | None: ...

    def file(self) -> tuple[int, int] | None: ...

    def must_be(self, file: tuple[int, int] | None) -> None: ...

    def slots(self) -> Slots: ...

    def busy_slots(self) -> set[str]: ...

    def running(self, slot: str) -> set[str]: ...

    def foreign(self) -> int: ...

    def follows(self, job_id: str, place: int) -> bool: ...

    def due(self, job_id: str, place: int) -> float | None: ...

    def put(self, attempt: Attempt, place: int, delay: float) -> None: ...


class Worker:
    """Runs jobs, under the name of a slot that it has locked, ``threads`` at a time.

    DBOS stores which executor has started which job. When an executor starts, it runs
    again what it had not finished under its name. So two processes must not have the
    same name, and each name must come back. If it does not, because there are fewer
    workers than before, the others take its jobs.
    """

    def __init__(self, client: Client, slot: int, threads: int) -> None:
        self._client = client
        self._most = threads
        self._wanted = slot
        self._stops: SimpleQueue[int] = SimpleQueue()  # signal handlers may use it
        self._stopping = False
        self._free: dict[int, float] = {}  # slots, and since when they are free
        self._stranded: set[str] = set()  # workflows, as of the last look
        self._notices = EachMinute()
        self._knows_foreign = False

    def run(self) -> None:
        """Run jobs until SIGTERM or SIGINT; then finish the job that runs."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._stops.put(number))
        self._client.register_queue(POLLING)
        self._file = self._client.file()
        self._slots = self._client.slots()
        try:
            self._slot = take_one(self._slots, self._wanted)
            self._bell = self._client.bell(self._slot, POLLING)
            self._launch()
            try:
                self._wait()
            finally:
                self._stopping = True
                self._finish()
                DBOS.destroy()
        finally:
            self._slots.close()

    def _launch(self) -> None:
        refuse_pickles()
        claim_only_attempts(self._client.serial)
        logging.getLogger("dbos").addFilter(is_news)
        client = self._client
        self._dbos = DBOS(
            config={
                "name": client.owner,
                "system_database_url": client.url,
                "executor_id": name_of(self._slot),
                "application_version": client.owner,
                "serializer": Json(),
                "log_level": "WARNING",
                "enable_otlp": False,
                "sys_db_pool_size": 10 + self._most,
                "db_engine_kwargs": QUIET,
                # No job waits for a message from another.
                "notification_coalesce_sec": 1.0,
            }
        )
        DBOS.listen_queues([client.queue])
        for name in (FIRST, NEXT):
            DBOS.workflow(name=name, max_recovery_attempts=MOST_CRASHES)(
                self._run_as(name)
            )
        self._threads = Threads(self._bell, client.queue, self._most)
        if client.url.startswith("sqlite"):
            # With a server, all workers share DBOS's own thread.
            self._dbos._background_jobs_stop_event = Sweeps(self._bell, client.next_due)
        DBOS.launch()

    def _finish(self) -> None:
        """Let the jobs end that run, and show signs of life until then."""
        self._bell.stop()
        while not self._threads.ended(RESCUE):
            try:
                with self._client.reaching("keeping a worker's slot"):
                    self._slots.check()
            except JobsUnavailable as error:
                tell_unavailable(error)

    def _wait(self) -> None:
        while self._keep():
            # DBOS would keep running the jobs of a file that nobody else can open.
            self._client.must_be(self._file)
            stranded: set[str] = set()
            try:
                stranded = self._stranded_now()
                self._rescue()
                self._count_foreign()
            except JobsUnavailable as error:
                tell_unavailable(error)
            if stranded & self._stranded:
                # The next process of this slot runs them again. Not this one: DBOS may
                # be about to start them. The job that runs is finished first.
                raise JobsUnavailable(self._client.title, _words.STORING_OUTCOME)
            self._stranded = stranded
            try:
                self._stops.get(timeout=RESCUE)
            except Empty:
                continue
            return

    def _keep(self) -> bool:
        """Keep the slot, or take it again; False if this worker is to stop.

        While the server is away, nobody can take it. When it is back, other workers
        wait for a while. Raises ``JobsUnavailable`` if one of them has taken it.
        """
        deadline: float | None = None
        while True:
            try:
                with self._client.reaching("keeping a worker's slot"):
                    if self._slots.check():
                        return True
                    now = time.monotonic()
                    if deadline is None:
                        deadline = now + self._slots.grace
                    if now >= deadline:
                        raise TimeoutError("another process has it")
            except JobsUnavailable as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                tell_unavailable(error)
            try:
                self._stops.get(timeout=1)
            except Empty:
                continue
            return False

    def _stranded_now(self) -> set[str]:
        """The workflows that run under this slot, but not in this process.

        Those found twice in a row are stranded: DBOS could not store their outcome, as
        the disk was full or the server took no writes, and has given up. Those found
        once may be about to start. A workflow is active if it was before or after the
        query, as it may start or end meanwhile.
        """
        active = self._dbos._active_workflows_set.activeList
        before = active()
        return self._client.running(name_of(self._slot)).difference(before, active())

    def _rescue(self) -> None:
        """Queue the jobs again that run under the name of a slot that is free."""
        for name in self._client.busy_slots():
            number = number_of(name)
            if number is None or number == self._slot:
                continue
            with self._client.reaching(_words.RESCUING):
                if not self._slots.take(number):
                    self._free.pop(number, None)
                    if self._slots.is_silent(number) and self._notices.due(number):
                        report.log(
                            events.SLOT_SILENT,
                            "%s is locked, but its holder has shown no sign of life for"
                            " a minute: a worker that finishes a long job, or another "
                            "program. Jobs that ran under it wait until it is free",
                            self._slots.name(number), facts={"slot": name},
                        )  # fmt: skip
                    continue
                try:
                    since = self._free.setdefault(number, time.monotonic())
                    if time.monotonic() - since < self._slots.grace:
                        continue
                    for handle in DBOS._recover_pending_workflows([name]):
                        job = self._client.serial.split(handle.workflow_id)
                        report.log(
                            events.JOB_RESCUED,
                            "%s is run again: the worker of %s has died",
                            handle.workflow_id, name,
                            facts={"job_id": job and job[0], "slot": name},
                        )  # fmt: skip
                    self._bell.ring()
                finally:
                    self._slots.give_back(number)

    def _count_foreign(self) -> None:
        """Say once how many rows are left alone."""
        if self._knows_foreign or not self._notices.due("foreign"):
            return  # with many jobs, the count takes a while
        if not (number := self._client.foreign()):
            return
        self._knows_foreign = True
        report.log(
            events.ROWS_FOREIGN,
            "%d rows in DBOS's tables are not jobs that this worker knows, and are "
            "left alone. Another release, or one of DBOS's tools, has written them",
            number, facts={},
        )  # fmt: skip

    def _run_as(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            return self._run(args)

        run.__qualname__ = name  # DBOS wants them to differ
        return run

    def _run(self, args: tuple[Any, ...]) -> Any:
        """The workflow. DBOS stores what it returns and raises."""
        found = self._client.serial.split(DBOS.workflow_id or "")
        if found is None:
            raise ValueError("this is not an attempt of a job")
        job_id, place = found
        attempt = from_arguments(job_id, *args)
        if not attempt.last and self._until_reached(
            self._client.follows, job_id, place
        ):
            return None  # a worker was killed after this attempt had failed
        if report.heard(events.JOB_ATTEMPT):  # or nobody is told
            with suppress(JobsUnavailable):
                attempt = replace(attempt, due=self._client.due(job_id, place))
        give_up = partial(self._give_up, DBOS.workflow_id or "", place)
        try:
            # SystemExit, too, would leave the workflow running.
            return attempt.run(self._client.jobs, store=give_up)
        except AttemptFailed as failed:
            if failed.wait is None:
                raise
            self._until_reached(
                self._client.put, failed.following, place + 1, failed.wait
            )
            return None

    def _give_up(self, workflow: str, place: int, failed: AttemptFailed) -> None:
        """Store the failure of an attempt that hangs, before this process ends."""
        if failed.wait is None:
            self._dbos._sys_db.update_workflow_outcome(
                workflow, "ERROR", error=Json().serialize(failed)
            )
        else:
            # The next process finds it, and does not run this attempt again.
            self._client.put(failed.following, place + 1, failed.wait)

    def _until_reached(self, call: Any, *args: Any) -> Any:
        """Call that again and again, as DBOS does for its own writes.

        Otherwise the job would be lost. A worker that is to stop gives up in time, and
        the attempt is run again.
        """
        started = time.monotonic()
        while True:
            try:
                return call(*args)
            except JobsUnavailable as error:
                if self._stopping and time.monotonic() - started > STORING:
                    raise Unstored from error
                tell_unavailable(error)
                time.sleep(1)


def claim_only_attempts(serial: Serial) -> None:
    """In this process, keep DBOS from taking other rows out of the queue.

    It takes any (3.4), and could not run what has another workflow's name. That would
    count as stranded, and end each worker.
    """

    def gate(self: Any, queue_name: str, partition_key: str | None) -> Any:
        return is_attempt(self.tables.workflow_status, serial)

    dbos._sys_db.SystemDatabase._claim_gate = gate  # type: ignore[method-assign]


class Unstored(BaseException):
    """An attempt's outcome could not be stored. DBOS would store an ``Exception``."""


def name_of(slot: int) -> str:
    return f"slot-{slot}"


def number_of(name: str) -> int | None:
    """The slot of an executor id, if that is one of ours."""
    head, _, number = name.partition("slot-")
    return int(number) if not head and number.isdecimal() else None


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of DBOS is not about a failed job, which we log ourselves."""
    return not (record.exc_info and isinstance(record.exc_info[1], AttemptFailed))
