"""Jobs on RabbitMQ, by Celery (https://docs.celeryq.dev).

RabbitMQ hands out messages and tells nothing of them, so there is no status unless
``Jobs(url, results=...)`` names a result backend of Celery, and no lists.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4
from weakref import WeakSet

from amqp import spec
from amqp.exceptions import AMQPError
from kombu.common import maybe_declare
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange as bind_queue,
)
from kombu.transport.native_delayed_delivery import (
    declare_native_delayed_delivery_exchanges_and_queues as declare_delays,
)
from kombu.utils.url import parse_url

from ._celery_app import (
    TASK,
    Message,
    Stop,
    add_task,
    make_app,
    run_worker,
    too_often,
)
from ._job import Job, Order, describe, utc
from .errors import JobsUnavailable, NotSupported

if TYPE_CHECKING:
    from ._jobs import Jobs

logger = logging.getLogger("wsgi_defer")
TIMEOUT = 1.5  # seconds
LOOK = 1.0  # seconds after which a process that waits looks whether it is to stop
KEPT = 10  # idle connections
TIMES = ("enqueued_at", "due_at", "started_at", "finished_at")
STATE = "WSGI_DEFER"  # of all that we keep in a result backend


class Celery:
    """A client of one queue on RabbitMQ. See ``Engine``."""

    title = "Celery on RabbitMQ"
    own_processes = True
    holds = True
    delays = True

    def __init__(self, url: str, jobs: Jobs) -> None:
        if jobs.results is not None:
            self.check(jobs.results)
        self._url = url
        self._jobs = jobs
        self._app = make_app(url, jobs, TIMEOUT)
        self._queue = self._app.amqp.queues[jobs.queue]
        self._idle: list[Connection] = []  # append() and pop() are atomic
        # Those that have made the queues for delays.
        self._delays: WeakSet[Connection] = WeakSet()

    @staticmethod
    def check(url: str) -> None:
        """Refuse what is no URL."""
        try:
            parse_url(url)
        except ValueError:
            # Not the error itself: it may repeat a part of the password.
            raise ValueError(
                "this is no URL of a broker, or of a result backend; # / ? @ in a "
                "password are written as %23 %2F %3F %40"
            ) from None

    def enqueue(self, order: Order) -> None:
        now = time.time()
        self._tell(order.id, {}, name=order.name, state="queued", enqueued_at=now,
                   due_at=order.delay and now + order.delay)  # fmt: skip
        try:
            self._publish(order.name, order.payload, order.id, order.handler.waits, 1,
                          order.delay)  # fmt: skip
        except JobsUnavailable:
            self._forget(order.id)
            raise

    def _publish(
        self,
        name: str,
        payload: str,
        job_id: str,
        waits: list[float],
        attempt: int,
        wait: float,
        first: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        def publish(connection: Connection) -> None:
            # The way to connect that heeds max_retries; the others wait for 2 seconds.
            connection.default_channel  # noqa: B018
            first(connection)
            if wait:
                self._prepare_delays(connection)
            self._app.send_task(
                TASK,
                (name, payload, waits),
                task_id=job_id,
                message_id=uuid4().hex,  # a job may have several
                retries=attempt - 1,
                countdown=math.ceil(wait) or None,  # they take whole seconds
                producer=self._app.amqp.Producer(connection, auto_declare=False),
                queue=self._queue,
                retry=False,
                confirm_timeout=TIMEOUT,
                mandatory=True,  # or RabbitMQ drops and confirms what has no queue
                argsrepr=name,  # what is logged
                add_to_parent=False,
            )

        doing = f"storing a job for {name}"
        try:
            self._connected(publish)
        except (AMQPError, KombuError, OSError, AttributeError) as error:
            # py-amqp has an AttributeError for a connection that is lost midway.
            raise JobsUnavailable(self.title, doing) from error

    def _wait_for_broker(
        self, message: Message, stop: Stop, connection: Connection
    ) -> None:
        """Wait until RabbitMQ takes messages, or the worker is told to stop.

        While its disk or memory is short, it hands messages out, but reads none. A job
        that is given back then comes again at once, and each that was published on the
        way waits in a socket, and runs afterwards. So what is tried is a message that
        no queue gets.
        """
        channel: Any = connection.default_channel
        # To its exchange: that is the one that we may write to.
        maybe_declare(self._queue.exchange, channel)
        # Not an empty one: RabbitMQ stops after the header, which would be all of it.
        probe = channel.prepare_message(b"-")
        exchange = self._queue.exchange.name
        try:
            channel.basic_publish(probe, exchange, confirm_timeout=LOOK)
            return
        except TimeoutError:
            logger.warning("RabbitMQ takes no messages; job %s %s waits with its "
                           "attempt %d until it does", message.name, message.job_id,
                           message.attempt + 1)  # fmt: skip
        while not stop.is_told():
            try:
                channel.wait([spec.Basic.Ack, spec.Basic.Nack], timeout=LOOK)
                return
            except TimeoutError:
                continue
        raise TimeoutError("RabbitMQ takes no messages, and the worker is to stop")

    def _prepare_delays(self, connection: Connection) -> None:
        """Make the queues for delays; the worker's start does, but may be yet to come.

        A job goes from them to a queue that has been there, so no publish tells of one
        that is not: then this fails, and a new connection makes all of them again.
        """
        queue = self._queue(connection.default_channel)
        if connection in self._delays:
            queue.queue_declare(passive=True)
            return
        declare_delays(connection, "quorum")
        queue.declare()
        bind_queue(connection, self._queue)
        self._delays.add(connection)

    def _connected(self, use: Callable[[Connection], None]) -> None:
        """Call that with a connection; once more, if an old one turns out to be dead.

        So a job may be stored twice, if the broker died just after it stored it.
        """
        while True:
            try:
                connection, old = self._idle.pop(), True
            except IndexError:
                connection = self._app.connection_for_write(heartbeat=0)
                old = False
            try:
                use(connection)
            except Exception as error:
                connection.collect()
                slow = isinstance(error.__cause__ or error, TimeoutError)
                if old and not slow:
                    continue
                raise
            break
        if len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            connection.release()

    def _tell(
        self, job_id: str, known: dict[str, Any] | None = None, /, **fields: Any
    ) -> None:
        """Keep what is known of a job, if there is a place for it."""
        if self._jobs.results is None:
            return
        try:
            if known is None:
                known = self._known(job_id) or {}
            kept = {**known, **fields}
            self._app.backend.store_result(self._key(job_id), kept, STATE)
        except Exception as error:
            raise JobsUnavailable(self.title, "keeping a job's status") from error

    def _key(self, job_id: str) -> str:
        """Its id in the result backend: all queues share that."""
        return f"{self._jobs.queue}:{job_id}"

    def _known(self, job_id: str) -> dict[str, Any] | None:
        meta = self._app.backend.get_task_meta(self._key(job_id), cache=False)
        return meta["result"] if meta["status"] == STATE else None

    def _forget(self, job_id: str) -> None:
        if self._jobs.results is None:
            return
        try:
            self._app.backend.forget(self._key(job_id))
        except Exception as error:
            logger.warning("the status of job %s stays, though it was not stored: %s",
                           job_id, describe(error))  # fmt: skip

    def status(self, job_id: str) -> Job | None:
        if self._jobs.results is None:
            self._refuse("tell a job's status", 'Jobs(url, results="redis://...") has '
                         "Celery keep it.")  # fmt: skip
        try:
            known = self._known(job_id)
        except Exception as error:
            raise JobsUnavailable(self.title, "reading a job's status") from error
        if known is None:
            return None
        for name in TIMES:
            known[name] = utc(known.get(name) or None)
        known.pop("ended_by", None)
        known["result"] = json.loads(known.get("result", "null"))
        due = known["due_at"]
        if known["state"] == "queued" and due and due.timestamp() > time.time():
            known["state"] = "scheduled"
        return Job(job_id, **known)

    def failed(self, limit: int) -> list[Job]:
        self._refuse("list jobs", "The worker's log names those that have failed.")

    def recent(self, limit: int) -> list[Job]:
        self._refuse("list jobs", "RabbitMQ's management page counts them.")

    def retry(self, job_id: str) -> None:
        self._refuse("queue a failed job again", "Enqueue a new one.")

    def clear(self, before: float) -> int:
        self._refuse("clear done jobs", "It keeps none; with results=, for 7 days.")

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise NotSupported(self.title, what, hint)

    def work(self, slot: int, processes: int) -> None:
        app = make_app(self._url, self._jobs, None)
        stop = Stop()
        # In the pool's processes, Jobs.engine is another client than this.
        add_task(app, lambda message: self._jobs.engine.run(message, stop))  # type: ignore[attr-defined]
        run_worker(app, processes, stop)

    def run(self, message: Message, stop: Stop) -> bool:
        """Run a job's handler here; False if the message must stay in the queue."""
        name, job_id, attempt = message.name, message.job_id, message.attempt
        if message.again and self._has_ended(message):
            return True
        fields: dict[str, Any] = {
            "attempts": attempt, "error": too_often(message.crashes)
        }  # fmt: skip
        if fields["error"]:
            logger.error("job %s %s has failed: %s", name, job_id, fields["error"])
            return self._told(job_id, state="failed", finished_at=time.time(), **fields)
        self._told(job_id, name=name, state="running", started_at=time.time(),
                   attempts=attempt)  # fmt: skip
        last = attempt > len(message.waits)
        try:
            result = self._jobs.run(name, message.payload, job_id, attempt, last=last)
        except SystemExit:
            raise  # Celery ends this process; the message goes back to the queue
        except BaseException as error:
            fields["error"] = describe(error)
        else:
            # As text: kombu reads a dict with "__type__" as an object of another type.
            return self._told(job_id, state="done", finished_at=time.time(),
                              result=json.dumps(result), ended_by=message.message_id,
                              **fields)  # fmt: skip
        if last:
            return self._told(job_id, state="failed", finished_at=time.time(),
                              ended_by=message.message_id, **fields)  # fmt: skip
        wait = message.waits[attempt - 1]
        self._told(job_id, state="queued", due_at=time.time() + wait, **fields)
        try:
            self._publish(
                name, message.payload, job_id, message.waits, attempt + 1, wait,
                partial(self._wait_for_broker, message, stop),
            )  # fmt: skip
        except JobsUnavailable as error:
            logger.warning("job %s %s stays in its attempt %d: %s", name, job_id,
                           attempt, error)  # fmt: skip
            return False
        return True

    def _has_ended(self, message: Message) -> bool:
        """Whether the job ended with it, and its worker died before RabbitMQ knew."""
        if self._jobs.results is None or message.message_id is None:
            return False
        try:
            known = self._known(message.job_id) or {}
        except Exception:
            return False  # rather twice than never
        # Not its state alone: another job of that id may have ended.
        return known.get("ended_by") == message.message_id

    def _told(self, job_id: str, **fields: Any) -> bool:
        """As ``_tell()``, but a job is not held up by it."""
        try:
            self._tell(job_id, **fields)
        except JobsUnavailable as error:
            logger.warning("the status of job %s is out of date: %s", job_id, error)
        return True

    def close(self) -> None:
        while self._idle:
            self._idle.pop().release()
        self._app.close()


ENGINE = Celery
