"""Jobs on Redis, by RQ (https://python-rq.org).

RQ runs any function that a job in Redis names. Here it imports none: its job runs our
handlers, by their name, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from inspect import signature
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import rq
from redis import Redis, RedisError, WatchError
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry as Again
from rq.exceptions import DuplicateJobError
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat

from ..._job import MOST_CRASHES, Job, Order, State
from ..._progress import NOTHING, Progress, from_text
from ...errors import (
    JobNotFailedError,
    JobNotWaitingError,
    JobsUnavailable,
    UnknownJobError,
)
from .. import _words
from .._engine import Engine, Served, check_waits
from .worker import CANCELLED, FUNCTION, PROGRESS, Queue, RqJob, Worker

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
    JobStatus.CANCELED: "cancelled",
}  # all others are on their way to a worker
STATES_OF_LISTS: tuple[State, ...] = (
    "queued", "running", "scheduled", "done", "failed", "cancelled"
)  # fmt: skip
AT_ONCE = 1000  # names that are asked for in one round trip


# Whoever takes a job off its list decides what becomes of it. RQ's own cancel() does
# not look whether it was there.
CANCEL = f"""
local list, delayed, cancelled, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, now, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('LREM', list, 1, id) + redis.call('ZREM', delayed, id) == 0 then
    return 0
end
redis.call('HSET', job, 'status', 'canceled', '{CANCELLED}', '1', 'ended_at', ARGV[4])
redis.call('EXPIRE', job, kept)
redis.call('ZREMRANGEBYSCORE', cancelled, '-inf', now)
redis.call('ZADD', cancelled, now + kept, id)
return 1
"""


class Rq(Engine):
    """A client of one queue of RQ."""

    title = "RQ on Redis"
    hints: ClassVar[Mapping[str, str]] = {
        "threads": "Start more processes instead, with --processes.",
        "clear": "Each is forgotten a day after its end.",
    }
    outages = (RedisError,)

    def __init__(self, url: str, jobs: Served) -> None:
        self._url = url
        self._jobs = jobs
        self._redis = connect(url, TIMEOUT)
        self._queue = self._queue_on(self._redis, RqJob)
        self._cancel = self._redis.register_script(CANCEL)

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
        known = signature(SSLConnection.__init__).parameters.keys()
        wrong = {name for name, _ in parse_qsl(urlsplit(url).query) if "ssl" in name}
        if url.startswith("rediss"):
            wrong -= known
        if wrong:
            raise ValueError(
                "Redis's URL has parameters that are not known, or are for rediss: "
                + ", ".join(sorted(wrong))
            )
        if number and not (number.isascii() and number.isdigit()):
            # Redis would take it for the database 0.
            raise ValueError("the path of a URL of Redis is the number of a database")

    def enqueue(self, order: Order) -> None:
        job, at = self._make(order)
        try:
            with self.reaching(_words.storing(order.name)):
                if at is None:
                    self._queue.enqueue_job(job, unique=True)
                else:
                    self._queue.schedule_job(job, at, unique=True)
        except DuplicateJobError:
            pass  # the job that has this id stays as it is

    def enqueue_many(self, orders: Sequence[Order]) -> None:
        with (
            self.reaching(_words.storing_many(len(orders))),
            self._redis.pipeline() as pipeline,
        ):
            for job, at in map(self._make, orders):
                if at is None:
                    self._queue.enqueue_job(job, pipeline)
                else:
                    self._queue.schedule_job(job, at, pipeline)
            pipeline.execute()

    def _make(self, order: Order) -> tuple[Any, datetime | None]:
        """RQ's job, and when it is due."""
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
        return job, datetime.fromtimestamp(due, timezone.utc) if due else None

    def _key(self, job_id: str) -> str:
        """RQ's id of that job, without dots. All queues of a server share these ids."""
        names = (self._jobs.queue, job_id)
        return "_s".join(name.replace("_", "__").replace(".", "_d") for name in names)

    def status(self, job_id: str) -> Job | None:
        with self.reaching(_words.READING):
            return self._find([self._key(job_id)])[0]

    def failed(self, limit: int, name: str | None = None) -> list[Job]:
        with self.reaching(_words.LISTING_FAILED):
            most = 0 if name else limit  # 0 is all of them
            return self._named(self._keys("failed", most) if limit else [], name, limit)

    def recent(
        self, limit: int, name: str | None = None, state: State | None = None
    ) -> list[Job]:
        with self.reaching(_words.LISTING):
            most = 0 if name else limit
            keys: dict[str, None] = {}
            for each in (state,) if state else STATES_OF_LISTS:
                keys |= dict.fromkeys(self._keys(each, most) if limit else [])
            jobs = self._named([*keys], name, len(keys))
        first = datetime.min.replace(tzinfo=timezone.utc)
        jobs.sort(key=lambda job: job.enqueued_at or first, reverse=True)
        return [job for job in jobs if state in (None, job.state)][:limit]

    def _keys(self, state: State, limit: int) -> list[str]:
        """The latest of RQ's ids on the list of that state; all of them for 0."""
        if state == "queued":
            return self._queue.get_job_ids(-limit, limit or -1)
        # Without a clean-up, which is for workers: it would call functions that the
        # queue names.
        registry = self._registry(state)
        return [*registry.get_job_ids(0, limit - 1, desc=True, cleanup=False)]

    def _registry(self, state: State) -> Any:
        queue = self._queue
        return {
            "scheduled": queue.scheduled_job_registry,
            "running": queue.started_job_registry,
            "done": queue.finished_job_registry,
            "failed": queue.failed_job_registry,
            "cancelled": queue.canceled_job_registry,
        }[state]

    def _named(self, keys: list[str], name: str | None, limit: int) -> list[Job]:
        """The first jobs of that name, or of any."""
        if name is not None:
            names = self._names(keys)
            keys = [key for key in keys if names[key] == name]
        return [job for job in self._find(keys[:limit]) if job]

    def _names(self, keys: list[str]) -> dict[str, str | None]:
        """The handlers' names, without the payloads."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), AT_ONCE):
            with self._redis.pipeline(transaction=False) as pipe:
                for key in keys[start : start + AT_ONCE]:
                    pipe.hget(RqJob.key_for(key), "description")
                found += pipe.execute()
        names = [name.decode() if name else None for name in found]
        return dict(zip(keys, names, strict=True))

    def counts(self, by_name: bool) -> Iterable[tuple[str, State, int]]:
        with self.reaching(_words.COUNTING):
            if not by_name:
                return [("", state, self._count(state)) for state in STATES_OF_LISTS]
            counted: Counter[tuple[str, State]] = Counter()
            for state in STATES_OF_LISTS:
                names = self._names(self._keys(state, 0)).values()
                counted.update((name, state) for name in names if name)
            return [(*key, number) for key, number in counted.items()]

    def _count(self, state: State) -> int:
        if state == "queued":
            return self._queue.count
        # As RQ, but without its clean-up. Beyond that time, Redis has forgotten them.
        least: float | str = (
            "-inf" if state in ("scheduled", "running") else time.time()
        )
        return int(self._redis.zcount(self._registry(state).key, least, "+inf"))

    def cancel(self, job_id: str) -> None:
        key = self._key(job_id)
        lists = [self._queue.key, self._registry("scheduled").key,
                 self._registry("cancelled").key]  # fmt: skip
        with self.reaching(_words.CANCELLING):
            job = self._find([key])[0]
            if job is None:
                raise UnknownJobError(job_id)
            if check_waits(job_id, job.state) and not self._cancel(
                [*lists, RqJob.key_for(key)],
                [key, int(time.time()), DONE_KEPT, utcformat(now())],
            ):
                job = self._find([key])[0] or job
                if check_waits(job_id, job.state):  # a worker has fetched it
                    raise JobNotWaitingError(job_id, "running")

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

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        with self.reaching(_words.STORING_PROGRESS):
            key = RqJob.key_for(self._key(job_id))
            self._redis.hset(key, PROGRESS, progress.to_text(attempt))

    def work(self, slot: int, processes: int, threads: int) -> None:
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
    if job.cancelled:
        state = "cancelled"
    ended = state in ("done", "failed")
    due = job.meta.get("due")
    failures = (job.number_of_retries or 0) - job.absences
    attempts = failures + (ended or state == "running")
    return Job(
        job_id,
        name,
        state,
        attempts,
        error=None if state == "done" else job.error(failed=state == "failed"),
        enqueued_at=job.created_at,
        due_at=due and datetime.fromtimestamp(due, timezone.utc),
        started_at=job.started_at,
        finished_at=job.ended_at if ended or state == "cancelled" else None,
        result=job.return_value() if state == "done" else None,
        payload=payload,
        progress=from_text(job.told, attempts) if state == "running" else NOTHING,
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
