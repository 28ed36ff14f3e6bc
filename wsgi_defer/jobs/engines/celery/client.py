"""Jobs on RabbitMQ, by Celery (https://docs.celeryq.dev).

RabbitMQ hands out messages and tells nothing about them. So there are no lists, and
no status unless ``Jobs(url, results=...)`` names a result backend of Celery.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from uuid import uuid4
from weakref import WeakSet

from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange as bind_queue,
)
from kombu.transport.native_delayed_delivery import (
    declare_native_delayed_delivery_exchanges_and_queues as declare_delays,
)
from kombu.utils.url import parse_url

from ...._runtime import events, report
from ..._attempt import Attempt
from ..._job import Job, Order, describe, utc
from ..._progress import NOTHING, Progress, from_text
from ...errors import JobsUnavailable
from .. import _connections, _words
from .._engine import Engine, Served
from .app import DUE, TASK, apart, make_app, unknown
from .worker import work

TIMEOUT = 1.5  # seconds
TIMES = ("enqueued_at", "due_at", "started_at", "finished_at")
STATE = "WSGI_DEFER"  # of all that we keep in a result backend


WITH_RESULTS = 'Jobs(url, results="redis://...") has Celery keep it.'


class Connections(_connections.Connections[Connection]):
    """Connections to RabbitMQ."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    def open(self) -> Connection:
        connection: Connection = self._app.connection_for_write(heartbeat=0)
        return connection

    def prepare(self, connection: Connection) -> None:
        # The way to connect that heeds max_retries; the others wait for 2 seconds.
        connection.default_channel  # noqa: B018

    def was_dead(self, connection: Connection, error: BaseException) -> bool:
        slow = isinstance(error.__cause__ or error, TimeoutError)
        return isinstance(error, Exception) and not slow

    def drop(self, connection: Connection) -> None:
        connection.collect()

    def close_idle(self, connection: Connection) -> None:
        connection.release()


class Celery(Engine):
    """A client of one queue on RabbitMQ."""

    title = "Celery on RabbitMQ"
    own_processes = True
    schedules = False
    hints: ClassVar[Mapping[str, str]] = {
        "status": WITH_RESULTS,
        "progress": WITH_RESULTS,
        "failed": "The worker's log names those that have failed.",
        "recent": "RabbitMQ's management page counts them.",
        "counts": "RabbitMQ's management page does.",
        "cancel": "Let the handler look whether its work is still wanted.",
        "every": "Start the worker with --no-schedule, and let cron or celery beat "
        "enqueue them.",
        "retry": "Enqueue a new one.",
        "threads": "Start more processes instead, with --processes.",
        "clear": "It keeps none; with results=, for 7 days.",
    }
    # py-amqp raises AttributeError if a connection is lost midway.
    outages = (AMQPError, KombuError, OSError, AttributeError)

    def __init__(self, url: str, jobs: Served) -> None:
        if jobs.results is not None:
            self.check(jobs.results)
        self._url = url
        self._jobs = jobs
        self._app = make_app(url, jobs, TIMEOUT)
        self.queue = self._app.amqp.queues[jobs.queue]
        self._connections = Connections(self._app)
        # Those that have made the queues for delays.
        self._delays: WeakSet[Connection] = WeakSet()

    @staticmethod
    def check(url: str) -> None:
        """Refuse anything but a URL."""
        try:
            wrong = unknown(url)
            if not wrong:
                apart(url)
                parse_url(url)
        except (ValueError, KeyError):
            # Not the error itself: it may repeat a part of the password.
            raise ValueError(
                "this is not a URL of a broker, or of a result backend; # / ? @ in a "
                "password are written as %23 %2F %3F %40, and ssl_cert_reqs is none or "
                "required"
            ) from None
        if wrong:
            raise ValueError(
                "RabbitMQ's URL has parameters that are not known, or are for amqps: "
                + ", ".join(wrong)
            )
        if "amqps:" in url and ";" in url:
            raise ValueError("with amqps, the URL is that of one broker")

    def enqueue(self, order: Order) -> None:
        now = time.time()
        self.keep(order.id, {}, name=order.name, state="queued", enqueued_at=now,
                  due_at=order.delay and now + order.delay)  # fmt: skip
        try:
            self.publish(Attempt.first(order), order.delay)
        except JobsUnavailable:
            self._forget(order.id)
            raise

    def publish(
        self,
        attempt: Attempt,
        wait: float,
        first: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """Store an attempt, after ``first`` was called with the connection."""

        def send(connection: Connection) -> None:
            first(connection)
            if wait:
                self._prepare_delays(connection)
            self._app.send_task(
                TASK,
                message_of(attempt),
                task_id=attempt.job_id,
                message_id=uuid4().hex,  # a job may have several
                retries=attempt.number - 1,
                headers={DUE: attempt.due},  # which an older release does not read
                countdown=math.ceil(wait) or None,  # they take whole seconds
                producer=self._app.amqp.Producer(connection, auto_declare=False),
                queue=self.queue,
                retry=False,
                confirm_timeout=TIMEOUT,
                mandatory=True,  # or RabbitMQ drops and confirms what has no queue
                argsrepr=attempt.name,  # what is logged
                add_to_parent=False,
            )

        with self.reaching(_words.storing(attempt.name)):
            self._connections.run(send)

    def _prepare_delays(self, connection: Connection) -> None:
        """Make the queues for delays, as no worker may have started so far.

        A delayed job goes from them to a queue that has been there. If that is missing
        by now, no publish tells. So this fails then, and a new connection makes all of
        them again.
        """
        queue = self.queue(connection.default_channel)
        if connection in self._delays:
            queue.queue_declare(passive=True)
            return
        declare_delays(connection, "quorum")
        queue.declare()
        bind_queue(connection, self.queue)
        self._delays.add(connection)

    def keep(
        self, job_id: str, known: dict[str, Any] | None = None, /, **fields: Any
    ) -> None:
        """Keep what is known of a job, if there is a result backend."""
        if self._jobs.results is None:
            return
        with self.reaching("keeping a job's status", Exception):
            if known is None:
                known = self.known(job_id) or {}
            kept = {**known, **fields}
            self._app.backend.store_result(self._key(job_id), kept, STATE)

    def _key(self, job_id: str) -> str:
        """Its id in the result backend, which all queues share."""
        return f"{self._jobs.queue}:{job_id}"

    def known(self, job_id: str) -> dict[str, Any] | None:
        """What was kept of a job."""
        meta = self._app.backend.get_task_meta(self._key(job_id), cache=False)
        return meta["result"] if meta["status"] == STATE else None

    def _forget(self, job_id: str) -> None:
        if self._jobs.results is None:
            return
        try:
            self._app.backend.forget(self._key(job_id))
        except Exception as error:
            report.log(
                events.STATUS_LEFT,
                "the status of job %s stays, though it was not stored: %s", job_id,
                describe(error),
                facts={"job_id": job_id, "error": type(error).__qualname__},
            )  # fmt: skip

    def status(self, job_id: str) -> Job | None:
        if self._jobs.results is None:
            self.refuse("status")
        with self.reaching(_words.READING, Exception):
            known = self.known(job_id)
        if known is None:
            return None
        for name in TIMES:
            known[name] = utc(known.get(name) or None)
        known.pop("ended_by", None)
        known["result"] = json.loads(known.get("result", "null"))
        due = known["due_at"]
        if known["state"] == "queued" and due and due.timestamp() > time.time():
            known["state"] = "scheduled"
        told, attempts = known.pop("progress", None), known.get("attempts", 0)
        running = known["state"] == "running"
        progress = from_text(told, attempts) if running else NOTHING
        return Job(job_id, **known, progress=progress)

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        if self._jobs.results is None:
            self.refuse("progress")
        self.keep(job_id, progress=progress.to_text(attempt))

    def work(self, slot: int, processes: int, threads: int) -> None:
        work(make_app(self._url, self._jobs, None), self._jobs, processes)

    def close(self) -> None:
        self._connections.close()
        self._app.close()


def message_of(attempt: Attempt) -> tuple[Any, ...]:
    """The arguments of the task. An older release knows only the first three."""
    some = (attempt.name, attempt.payload, attempt.waits)
    return (*some, attempt.absences) if attempt.absences else some


ENGINE = Celery
