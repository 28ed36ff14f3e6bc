"""RQ's job, queue and worker, changed so that no job is lost."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import Any

import rq
import rq.job
import rq.queue
import rq.scheduler
import rq.worker
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.timeouts import UnixSignalDeathPenalty
from rq.utils import now

from ...._runtime.parent import end_with
from ..._attempt import Attempt, AttemptFailed
from ..._carrier import flush
from .. import _words
from .._engine import Served

logger = logging.getLogger("wsgi_defer")

FUNCTION = "wsgi_defer.job"  # marks our jobs; nothing of that name is imported

# Fields that we add to RQ's jobs.
CANCELLED = "wsgi_defer_cancelled"
PROGRESS = "wsgi_defer_progress"

HEARTBEAT = 5  # seconds between two signs of life of a running job
SILENCE = 30  # seconds without one after which a job's worker counts as dead
RESCUE = 10  # seconds between two looks for jobs of dead workers
FETCHING = 15  # seconds after which a job that was fetched, but not started, is lost
IDLE = 17  # seconds; RQ waits for a job for 15 less, and looks after the others then


class RqJob(rq.job.Job):
    """RQ's job, which imports nothing that the queue names, and runs our handlers.

    Crashes are counted as RQ's own retries. Failures of the handler are counted as its
    "retries by result", which it keeps apart, so a killed worker costs no attempt.
    """

    jobs: Served  # the class that a worker uses has it
    cancelled = False
    told: bytes | None = None

    def restore(self, raw_data: Any) -> None:
        """Also read our own fields."""
        super().restore(raw_data)
        self.cancelled = CANCELLED.encode() in raw_data
        self.told = raw_data.get(PROGRESS.encode())

    def order(self) -> tuple[str, str, str] | None:
        """The handler's name, the payload as text, and our id; None if it has none."""
        try:
            name, payload, job_id = self.args
        except Exception:
            return None
        if self.func_name != FUNCTION or self.instance is not None:
            return None
        if not all(isinstance(word, str) for word in (name, payload, job_id)):
            return None
        return name, payload, job_id

    @property
    def absences(self) -> int:
        """How often it was put back, which RQ counts as retries."""
        return int(self.meta.get("absences") or 0)

    def error(self, failed: bool) -> str | None:
        """What the last attempt raised."""
        if failed and not self.meta.get("last"):
            return _words.died()
        return self.meta.get("error")

    def _execute(self) -> Any:
        order = self.order()
        if order is None:
            self.retries_left = 0
            logger.error("a job of RQ was refused: it is not one of wsgi_defer's")
            raise ValueError("this is not a job of wsgi_defer")
        # RQ moves a delayed job to its queue even if it was taken off the list since.
        if self.connection.hexists(self.key, CANCELLED):
            return None
        try:
            return self._attempt(*order)
        finally:  # RQ ends the process by os._exit()
            flush(self.jobs.observers)
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # it may be closed, or its disk full
                    stream.flush()

    def _attempt(self, name: str, payload: str, job_id: str) -> Any:
        waits = [float(wait) for wait in self.kwargs.get("waits", [])]
        absences = self.absences
        number = (self.number_of_retries or 0) - absences + 1
        queued = self.enqueued_at.timestamp() if self.enqueued_at else None
        attempt = Attempt(job_id, name, payload, waits, number, absences=absences,
                          due=self.meta.get("due") or queued)  # fmt: skip
        try:
            return attempt.run(self.jobs)
        except AttemptFailed as failed:
            self.meta = {
                "error": failed.error,
                "last": failed.wait is None,
                "due": None,
                "absences": failed.following.absences,
            }
            if failed.wait is None:
                self.retries_left = 0
                raise
            wait = failed.wait
        if wait:
            # RQ cuts off the fraction of the time that it is due.
            self.meta["due"] = math.ceil(time.time() + wait)
            wait = self.meta["due"] - time.time()
        # Whether there is another attempt has been decided.
        most = (self.number_of_retries or 0) + 1
        return rq.Retry(most, [wait])  # type: ignore[list-item]

    def set_status(self, status: Any, pipeline: Any = None) -> None:
        """Leave SCHEDULED to the transaction that stores the count of attempts.

        RQ would store it before that.
        """
        if status is JobStatus.SCHEDULED and pipeline is None:
            self._status = status
        else:
            super().set_status(status, pipeline=pipeline)

    def _handle_failure(
        self, exc_string: str, pipeline: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Also store what the last attempt raised, in the same transaction."""
        super()._handle_failure(exc_string, pipeline, *args, **kwargs)
        pipeline.hset(self.key, "meta", self._serialize_meta())

    @property
    def func(self) -> None:
        """None: it is not imported."""

    @property
    def success_callback(self) -> None:
        """None: it would be imported by the name in Redis."""

    @property
    def failure_callback(self) -> None:
        """As above."""

    @property
    def stopped_callback(self) -> None:
        """As above."""

    def send_webhooks(self, status: Any, **_: Any) -> None:
        """Send none: Redis would choose their addresses."""


class Fetched(IntermediateQueue):
    """Where a job is between the queue and its worker, for a moment."""

    def should_be_cleaned_up(self, job_id: str) -> bool:
        seen = self.get_first_seen(job_id)
        return seen is not None and now() - seen > timedelta(seconds=FETCHING)


class Queue(rq.queue.Queue):
    """RQ's queue, where the jobs of a dead worker are found sooner."""

    def acquire_maintenance_lock(self) -> bool:
        """Take it for a short time; RQ's lasts 15 minutes if its holder is killed."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=2 * RESCUE))

    @property
    def intermediate_queue(self) -> Fetched:
        return Fetched(self.key, connection=self.connection)


class Scheduler(rq.scheduler.RQScheduler):
    """RQ's scheduler, as a thread: its process would outlive a killed worker."""

    def start(self) -> Any:
        self._status = self.Status.STARTED
        self._connection = None
        self._process: Any = Thread(
            target=rq.scheduler.run, args=(self,), name="rq-scheduler", daemon=True
        )
        self._process.start()
        return self._process

    def _install_signal_handlers(self) -> None:
        pass


class Penalty(UnixSignalDeathPenalty):
    """RQ's time limit. Without one, as our jobs are, it leaves SIGALRM to the limits of
    calls that their handlers defer."""

    def setup_death_penalty(self) -> None:
        if self._timeout > 0:
            super().setup_death_penalty()  # type: ignore[no-untyped-call]

    def cancel_death_penalty(self) -> None:
        if self._timeout > 0:
            super().cancel_death_penalty()  # type: ignore[no-untyped-call]


class Worker(rq.worker.Worker):
    """RQ's worker, which forks for each job, and reports while the job runs."""

    death_penalty_class = Penalty
    max_connection_wait_time = 5.0  # seconds between two tries to reach Redis again

    @classmethod
    def on(cls, queue: Queue) -> Worker:
        """A worker of that queue."""
        return cls(
            [queue],
            connection=queue.connection,
            job_class=queue.job_class,
            queue_class=Queue,
            serializer=JSONSerializer,
            worker_ttl=IDLE,
            maintenance_interval=RESCUE,
            job_monitoring_interval=HEARTBEAT,
        )

    @property
    def was_stopped(self) -> bool:
        """Whether a signal has asked it to end."""
        return self._shutdown_requested_date is not None

    def get_heartbeat_ttl(self, job: Any, working_time: float = 0.0) -> int:
        return SILENCE

    def setup_work_horse_signals(self) -> None:
        """Let the job finish if all processes are told to stop. Die with the worker."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not SIG_IGN, which the programs that a job starts would inherit.
            signal.signal(number, lambda *_: None)
        end_with(self.pid)  # type: ignore[arg-type]  # this is a child of the worker

    def handle_exception(self, job: Any, *exc_info: Any) -> None:
        """Do nothing: it has been logged, without the payload."""

    def _start_scheduler(self, *_: Any, **__: Any) -> None:
        self.scheduler = Scheduler(
            self.queues, connection=self.connection, serializer=self.serializer,
            logging_level="WARNING",
        )  # fmt: skip
        self.scheduler.acquire_locks()  # type: ignore[no-untyped-call]
        if self.scheduler.acquired_locks:
            self.scheduler.start()

    def stop_scheduler(self) -> None:
        if self.scheduler is not None and self.scheduler._process is not None:
            self.scheduler.request_stop()
            self.scheduler._process.join(timeout=3)
