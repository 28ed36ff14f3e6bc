"""Jobs on Redis, by RQ (https://python-rq.org).

RQ runs any function that a job in Redis names. Here it imports none: its job runs our
handlers, by their name, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, ClassVar
from urllib.parse import urlsplit

import rq
from redis import Redis, RedisError, WatchError
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry as Again
from rq.exceptions import DuplicateJobError
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from ..._job import MOST_CRASHES, Job, Order, State
from ...errors import JobNotFailedError, JobsUnavailable, UnknownJobError
from .. import _words
from .._engine import Engine, Served
from .worker import FUNCTION, Queue, RqJob, Worker

# A dead server is tried twice, as the first connection may be an old one: 1.8 seconds.
TIMEOUT = 0.9
DONE_KEPT = 24 * 3600  # seconds; they are in the server's memory
FAILED_KEPT = 365 * 24 * 3600

STATES: dict[JobStatus, State] = {
    JobStatus.SCHEDULED: "scheduled",
    JobStatus.STARTED: "running",
    JobStatus.FINISHED: "done",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "failed",
    JobStatus.CANCELED: "failed",
}  # all others are on their way to a worker


class Rq(Engine):
    """A client of one queue of RQ."""

    title = "RQ on Redis"
    hints: ClassVar[Mapping[str, str]] = {
        "clear": "Each is forgotten a day after its end."
    }
    outages = (RedisError,)

    def __init__(self, url: str, jobs: Served) -> None:
        self._url = url
        self._jobs = jobs
        self._redis = connect(url, TIMEOUT)
        self._queue = self._queue_on(self._redis, RqJob)

    def _queue_on(self, redis: Redis, job_class: type[RqJob]) -> Queue:
        return Queue(
            self._jobs.queue,
            connection=redis,
            job_class=job_class,
            serializer=JSONSerializer,
        )

    @staticmethod
    def check(url: str) -> None:
        """Refuse anything but a URL of Redis."""
        try:
            parse_url(url)
            number = urlsplit(url).path.strip("/")
        except ValueError:
            # Not the error itself: it may repeat a part of the password.
            raise ValueError(
                "this is not a URL of Redis; # / ? @ in a password are written as "
                "%23 %2F %3F %40"
            ) from None
        if number and not (number.isascii() and number.isdigit()):
            # Redis would take it for the database 0.
            raise ValueError("the path of a URL of Redis is the number of a database")

    def enqueue(self, order: Order) -> None:
        due = math.ceil(time.time() + order.delay) if order.delay else None
        job = self._queue.create_job(
            FUNCTION,
            args=(order.name, order.payload, order.id),
            kwargs={"waits": order.handler.waits},
            job_id=self._key(order.id),
            timeout=-1,  # RQ would kill the job after 3 minutes
            result_ttl=DONE_KEPT,
            failure_ttl=FAILED_KEPT,
            retry=rq.Retry(MOST_CRASHES),  # what a handler raises is not counted here
            description=order.name,  # RQ's own has the payload, and is logged
            meta={"due": due},
        )
        try:
            with self.reaching(_words.storing(order.name)):
                if due is None:
                    self._queue.enqueue_job(job, unique=True)
                else:
                    at = datetime.fromtimestamp(due, timezone.utc)
                    self._queue.schedule_job(job, at, unique=True)
        except DuplicateJobError:
            pass  # the job that has this id stays as it is

    def _key(self, job_id: str) -> str:
        """RQ's id of that job, without dots. All queues of a server share these ids."""
        names = (self._jobs.queue, job_id)
        return "_s".join(name.replace("_", "__").replace(".", "_d") for name in names)

    def status(self, job_id: str) -> Job | None:
        with self.reaching(_words.READING):
            return self._find([self._key(job_id)])[0]

    def failed(self, limit: int) -> list[Job]:
        with self.reaching(_words.LISTING_FAILED):
            registry = self._queue.failed_job_registry
            keys = registry.get_job_ids(0, limit - 1, desc=True, cleanup=False)
            return [job for job in self._find(keys) if job] if limit else []

    def recent(self, limit: int) -> list[Job]:
        with self.reaching(_words.LISTING):
            keys = dict.fromkeys(self._queue.get_job_ids(-limit, limit))
            for registry in (
                self._queue.started_job_registry,
                self._queue.scheduled_job_registry,
                self._queue.finished_job_registry,
                self._queue.failed_job_registry,
            ):
                # Without a clean-up, which is for workers: it would call functions
                # that the queue names.
                some = registry.get_job_ids(0, limit - 1, desc=True, cleanup=False)
                keys.update(dict.fromkeys(some))
            jobs = [job for job in self._find([*keys]) if job]
        first = datetime.min.replace(tzinfo=timezone.utc)
        jobs.sort(key=lambda job: job.enqueued_at or first, reverse=True)
        return jobs[:limit]

    def retry(self, job_id: str) -> None:
        with self.reaching(_words.RETRYING):
            while not self._requeued(job_id):
                pass  # somebody else has changed it, or the connection was lost

    def _requeued(self, job_id: str) -> bool:
        """Queue it again in one step.

        RQ's requeue() takes two. A job whose client dies between them would be failed
        forever, and on no list.
        """
        key = self._key(job_id)
        with self._redis.pipeline() as pipe:
            pipe.watch(RqJob.key_for(key))
            [job] = self._fetch([key])
            known = None if job is None else job_of(job)
            if job is None or known is None:
                raise UnknownJobError(job_id)
            if known.state != "failed":
                raise JobNotFailedError(job_id, known.state)
            job.number_of_retries = 0
            job.retries_left = MOST_CRASHES
            job.meta = {"due": None}
            job.started_at = job.ended_at = None
            pipe.multi()
            self._queue.failed_job_registry.remove(job, pipeline=pipe)
            self._queue.enqueue_job(job, pipeline=pipe)
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    def _fetch(self, keys: list[str]) -> list[RqJob | None]:
        many: Any = RqJob.fetch_many(keys, self._redis, serializer=JSONSerializer)
        return list(many)

    def _find(self, keys: list[str]) -> list[Job | None]:
        return [job_of(job) if job else None for job in self._fetch(keys)]

    def work(self, slot: int, processes: int) -> None:
        with self.reaching(_words.STARTING):
            worker_class = type("RqJob", (RqJob,), {"jobs": self._jobs})
            queue = self._queue_on(connect(self._url, 10), worker_class)
            worker = Worker.on(queue)
            worker.work(with_scheduler=True, logging_level="WARNING")
        if not worker.was_stopped:
            raise JobsUnavailable(self.title, "keeping a worker")

    def close(self) -> None:
        self._redis.close()


def job_of(job: RqJob) -> Job | None:
    """What is known of a job of RQ; None if it is not one of ours."""
    order = job.order()
    if order is None:
        return None
    name, payload, job_id = order
    state = STATES.get(job.get_status(refresh=False), "queued")
    ended = state in ("done", "failed")
    due = job.meta.get("due")
    return Job(
        job_id,
        name,
        state,
        attempts=(job.number_of_retries or 0)
        - job.absences
        + (ended or state == "running"),
        error=None if state == "done" else job.error(failed=state == "failed"),
        enqueued_at=job.created_at,
        due_at=due and datetime.fromtimestamp(due, timezone.utc),
        started_at=job.started_at,
        finished_at=job.ended_at if ended else None,
        result=job.return_value() if state == "done" else None,
        payload=payload,
    )


def connect(url: str, timeout: float) -> Redis:
    """A client that opens its connections later, and gives up after twice that."""
    return Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Again(NoBackoff(), 1),
    )


ENGINE = Rq
