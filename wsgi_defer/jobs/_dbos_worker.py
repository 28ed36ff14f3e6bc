"""One worker process of DBOS."""

from __future__ import annotations

import logging
import signal
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dbos import DBOS

from ._attempts import FIRST, NEXT, Attempt
from ._dbos_json import AttemptFailed, Json, refuse_pickles
from ._job import MOST_CRASHES, describe
from ._slots import take_one
from .errors import JobsUnavailable

if TYPE_CHECKING:
    from .dbos import Dbos

logger = logging.getLogger("wsgi_defer")

# Seconds after which an idle worker looks for a job, and a busy one for the next.
POLLING = 0.1
RESCUE = 5.0  # seconds after which a worker looks for jobs that nobody runs
STORING = 10.0  # seconds in which one that is to stop tries to store the next attempt
FOR_EVER = 10**9  # seconds
POOL = "wsgi_defer"  # what SQLAlchemy calls ours in its logs
# Of its engines: errors do not show the parameters, where payloads are.
QUIET: dict[str, Any] = {"hide_parameters": True, "pool_logging_name": POOL}


class Worker:
    """Runs jobs, one at a time, under the name of a slot that it has locked.

    DBOS knows which executor has begun which job. When one starts, it begins again what
    that name had not finished. So two processes must not have one name, and each name
    must come back: where it does not, because there are fewer workers than before, the
    others take its jobs.
    """

    def __init__(self, engine: Dbos, slot: int) -> None:
        self._engine = engine
        self._wanted = slot
        self._stops: SimpleQueue[int] = SimpleQueue()  # one that signals may put into
        self._stopping = False
        self._free: dict[int, float] = {}  # slots, and since when they have been
        self._stranded: set[str] = set()  # workflows, as of the last look

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then finish the job that runs."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._stops.put(number))
        self._engine.register_queue(POLLING)
        self._slots = self._engine.slots()
        try:
            self._slot = take_one(self._slots, self._wanted)
            self._launch()
            try:
                self._wait()
            finally:
                self._stopping = True
                DBOS.destroy(workflow_completion_timeout_sec=FOR_EVER)
        finally:
            self._slots.close()

    def _launch(self) -> None:
        refuse_pickles()
        logging.getLogger("dbos").addFilter(is_news)
        engine = self._engine
        self._dbos = DBOS(
            config={
                "name": engine.owner,
                "system_database_url": engine.url.render_as_string(hide_password=False),
                "executor_id": name_of(self._slot),
                "application_version": engine.owner,
                "serializer": Json(),
                "log_level": "WARNING",
                "enable_otlp": False,
                "sys_db_pool_size": 10,
                "db_engine_kwargs": QUIET,
                # No job waits for a message of another.
                "notification_coalesce_sec": 1.0,
            }
        )
        DBOS.listen_queues([engine.queue])
        for name in (FIRST, NEXT):
            DBOS.workflow(name=name, max_recovery_attempts=MOST_CRASHES)(
                self._run_as(name)
            )
        DBOS.launch()

    def _wait(self) -> None:
        while self._keep():
            stranded: set[str] = set()
            try:
                stranded = self._stranded_now()
                self._rescue()
            except JobsUnavailable as error:
                logger.warning("%s (%s)", error, error.__cause__)
            if stranded & self._stranded:
                # The next process of this slot begins it again. Not this one: DBOS may
                # still be about to start it. What runs is finished first.
                raise JobsUnavailable(self._engine.title, "storing a job's outcome")
            self._stranded = stranded
            try:
                self._stops.get(timeout=RESCUE)
            except Empty:
                continue
            return

    def _keep(self) -> bool:
        """Have the slot, or have it again; False if this worker is to stop.

        While the server is away, nobody else can take it. Then, others wait for a
        while. Raises ``JobsUnavailable`` if somebody has taken it nevertheless.
        """
        end: float | None = None
        while True:
            try:
                with self._engine.reaching("keeping a worker's slot"):
                    if self._slots.check():
                        return True
                    now = time.monotonic()
                    end = now + self._slots.grace if end is None else end
                    if now >= end:
                        raise TimeoutError("another process has it")
            except JobsUnavailable as error:
                if end is not None and time.monotonic() >= end:
                    raise
                logger.warning("%s (%s); tried again", error, error.__cause__)
            try:
                self._stops.get(timeout=1)
            except Empty:
                continue
            return False

    def _stranded_now(self) -> set[str]:
        """The workflows that run under this slot, but not in this process.

        What is there in two looks in a row is stranded: DBOS could not store what came
        of it, on a full disk or a server that takes no writes, and has given up. What
        is there once may be about to start. Active is what was before or after the
        query, since it may begin or end meanwhile.
        """
        active = self._dbos._active_workflows_set.activeList
        before = active()
        return self._engine.running(name_of(self._slot)).difference(before, active())

    def _rescue(self) -> None:
        """Queue the jobs again that run under the name of a slot that nobody has."""
        for name in self._engine.busy_slots():
            number = number_of(name)
            if number is None or number == self._slot:
                continue
            with self._engine.reaching("taking over the jobs of a dead worker"):
                if not self._slots.take(number):
                    self._free.pop(number, None)
                    continue
                try:
                    since = self._free.setdefault(number, time.monotonic())
                    if time.monotonic() - since < self._slots.grace:
                        continue
                    for handle in DBOS._recover_pending_workflows([name]):
                        logger.warning("%s is begun again: the worker of %s has died",
                                       handle.workflow_id, name)  # fmt: skip
                finally:
                    self._slots.give_back(number)

    def _run_as(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            return self._run(Attempt(*args))

        run.__qualname__ = name  # DBOS wants them to differ
        return run

    def _run(self, attempt: Attempt) -> Any:
        """The workflow. What it returns, and raises, is kept by DBOS."""
        job_id, place = self._engine.serial.split(DBOS.workflow_id or "")
        if not attempt.last and self._until_reached(
            self._engine.follows, job_id, place
        ):
            return None  # a worker was killed after this attempt had failed
        try:
            return self._engine.jobs.run(
                attempt.name, attempt.payload, job_id, attempt.number, last=attempt.last
            )
        except BaseException as error:  # SystemExit, too, would leave it running
            if attempt.last:
                raise AttemptFailed(describe(error)) from None
            following, delay = attempt.next(describe(error))
            self._until_reached(self._engine.put, job_id, place + 1, following, delay)
            return None

    def _until_reached(self, call: Any, *args: Any) -> Any:
        """As DBOS does for its own writes: without it, the job would be lost.

        A worker that is to stop gives up in time; this attempt is then run again.
        """
        begun = time.monotonic()
        while True:
            try:
                return call(*args)
            except JobsUnavailable as error:
                if self._stopping and time.monotonic() - begun > STORING:
                    raise Unstored from error
                logger.warning("%s (%s); tried again", error, error.__cause__)
                time.sleep(1)


class Unstored(BaseException):
    """What came of an attempt is not known. DBOS would store an ``Exception``."""


def name_of(slot: int) -> str:
    return f"slot-{slot}"


def number_of(name: str) -> int | None:
    """The slot of an executor id, if it is one of ours."""
    head, _, number = name.partition("slot-")
    return int(number) if not head and number.isdecimal() else None


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of DBOS is not about a job that failed, which is logged here."""
    return not (record.exc_info and isinstance(record.exc_info[1], AttemptFailed))
