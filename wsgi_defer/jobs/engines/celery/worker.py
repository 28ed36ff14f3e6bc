"""Celery's worker, and how it runs a job."""

from __future__ import annotations

import json
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from amqp import spec
from celery import Celery, Task, bootsteps, signals
from celery.exceptions import Ignore, Reject
from kombu.common import maybe_declare
from kombu.connection import Connection

from ...._runtime import events, report
from ...._runtime.parent import end_with
from ..._attempt import Attempt, AttemptFailed
from ..._job import MOST_CRASHES
from ...errors import JobsUnavailable
from .. import _words
from .._engine import Served
from .app import DUE, TASK

STOP_CHECK = 1.0  # seconds after which a process that waits checks whether to stop


class Client(Protocol):
    """What a worker needs of the engine's client."""

    queue: Any

    def publish(
        self, attempt: Attempt, wait: float, first: Callable[[Connection], None]
    ) -> None: ...

    def keep(self, job_id: str, /, **fields: Any) -> None: ...

    def known(self, job_id: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Message:
    """An attempt as a worker gets it from the queue."""

    attempt: Attempt
    message_id: str | None
    again: bool  # it may have been given to a worker before
    crashes: int  # how often it came back


class Stop:
    """Whether the worker is told to stop. Its processes share the memory for it."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def tell(self) -> None:
        self._flag[0] = 1

    def is_told(self) -> bool:
        return self._flag[0] != 0


def work(app: Celery, jobs: Served, processes: int) -> None:
    """Run Celery's worker until SIGTERM or SIGINT."""
    stop = Stop()
    add_task(app, Runner(jobs, stop).run)
    run_worker(app, processes, stop)


def add_task(app: Celery, run: Callable[[Message], bool]) -> None:
    """Let the app run jobs.

    ``run`` says whether the message is done with. If not, the broker keeps it.
    """

    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def job(
        task: Task, name: str, payload: str, waits: list[float], absences: int = 0
    ) -> None:
        request = task.request
        # Quorum queues count how often a message came back.
        crashes = int((request.headers or {}).get("x-delivery-count") or 0)
        crashes = crashes or int(getattr(request, "x-delivery-count", None) or 0)
        message = Message(
            Attempt(
                request.id,
                name,
                payload,
                waits,
                request.retries + 1,
                absences=absences,
                due=(request.headers or {}).get(DUE),
            ),
            message_id=(request.properties or {}).get("message_id"),
            again=bool((request.delivery_info or {}).get("redelivered")),
            crashes=crashes,
        )
        with unstopped():
            done = run(message)
        if not done:
            raise Reject("its next attempt could not be stored", requeue=True)
        raise Ignore  # it is acknowledged, and nothing else


def run_worker(app: Celery, processes: int, stop: Stop) -> None:
    """Start Celery's worker, and return when it has stopped."""

    class TellStop(bootsteps.StartStopStep):  # type: ignore[misc]
        """What Celery closes first when it stops, before it waits for its pool."""

        # Not its signal worker_shutting_down: a signal handler sends that under a lock,
        # where a second SIGTERM would wait forever.
        def close(self, worker: Any) -> None:
            stop.tell()

    app.steps["worker"].add(TellStop)
    parent = os.getpid()
    # Pool processes end with it: a job whose message goes back must not keep running.
    signals.worker_process_init.connect(lambda **_: end_with(parent), weak=False)
    worker = app.Worker(
        concurrency=processes,
        pool="prefork",
        loglevel="WARNING",
        # Nothing but the queue: no talk between workers, and no events.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


@contextmanager
def unstopped() -> Iterator[None]:
    """Let the job finish though a service manager tells all processes to stop.

    Celery's own process waits for it.
    """
    # Not SIG_IGN, which the programs that a job starts would inherit.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def too_often(crashes: int) -> str | None:
    """The error of a job that came back so often, if that is too often."""
    return _words.died(crashes) if crashes > MOST_CRASHES else None


class Runner:
    """Runs messages, in the processes of Celery's pool."""

    def __init__(self, jobs: Served, stop: Stop) -> None:
        self._jobs = jobs
        self._stop = stop

    @property
    def _client(self) -> Client:
        """The client of this process, as each process of the pool has its own."""
        client: Client = self._jobs.engine
        return client

    def run(self, message: Message) -> bool:
        """Run a job's handler; False if the message must stay in the queue."""
        attempt = message.attempt
        if message.again and self._has_ended(message):
            return True
        error = too_often(message.crashes)
        if error:
            report.log(
                events.JOB_GIVEN_UP, "job %s %s has failed: %s", attempt.name,
                attempt.job_id, error, facts={**attempt.facts, "why": error},
            )  # fmt: skip
            self._keep(attempt, state="failed", finished_at=time.time(), error=error)
            return True
        self._keep(attempt, name=attempt.name, state="running", started_at=time.time())
        try:
            # After SystemExit, Celery ends this process, and the message goes back.
            result = attempt.run(self._jobs, but=(SystemExit,))
        except AttemptFailed as failed:
            if failed.wait is not None:
                return self._put_off(message, failed.wait, failed)
            self._keep(attempt, state="failed", finished_at=time.time(),
                       ended_by=message.message_id, error=failed.error)  # fmt: skip
        else:
            # As text: kombu reads a dict with "__type__" as an object of another type.
            self._keep(attempt, state="done", finished_at=time.time(),
                       result=json.dumps(result), ended_by=message.message_id,
                       error=None)  # fmt: skip
        return True

    def _put_off(self, message: Message, wait: float, failed: AttemptFailed) -> bool:
        """Store the next attempt; False if that fails."""
        attempt = message.attempt
        self._keep(attempt, attempts=failed.following.number - 1, state="queued",
                   due_at=time.time() + wait, error=failed.error)  # fmt: skip
        first = partial(self._wait_for_broker, attempt)
        try:
            self._client.publish(failed.following, wait, first)
        except JobsUnavailable as unavailable:
            kind = type(unavailable).__name__
            report.log(
                events.JOB_STAYS, "job %s %s stays in its attempt %d: %s", attempt.name,
                attempt.job_id, attempt.number, unavailable,
                facts={**attempt.facts, "error": kind},
            )  # fmt: skip
            return False
        return True

    def _wait_for_broker(self, attempt: Attempt, connection: Connection) -> None:
        """Wait until RabbitMQ takes messages, or the worker is told to stop.

        While it is short of disk or memory, it hands messages out, but reads none. A
        job that is given back then comes again at once. And each job that was published
        meanwhile waits in a socket, and runs afterwards. So this tries with a message
        that no queue gets.
        """
        channel: Any = connection.default_channel
        # To the queue's exchange, as that is the one that we may write to.
        exchange = self._client.queue.exchange
        maybe_declare(exchange, channel)
        # Not an empty one: RabbitMQ stops after the header, which would be all of it.
        probe = channel.prepare_message(b"-")
        try:
            channel.basic_publish(probe, exchange.name, confirm_timeout=STOP_CHECK)
            return
        except TimeoutError:
            report.log(
                events.JOB_WAITS, "RabbitMQ takes no messages; job %s %s waits with "
                "its attempt %d until it does", attempt.name, attempt.job_id,
                attempt.number + 1,
                facts={**attempt.facts, "attempt": attempt.number + 1},
            )  # fmt: skip
        while not self._stop.is_told():
            try:
                channel.wait([spec.Basic.Ack, spec.Basic.Nack], timeout=STOP_CHECK)
                return
            except TimeoutError:
                continue
        raise TimeoutError("RabbitMQ takes no messages, and the worker is to stop")

    def _has_ended(self, message: Message) -> bool:
        """Whether the job ended with it, and its worker died before RabbitMQ knew."""
        if self._jobs.results is None or message.message_id is None:
            return False
        try:
            known = self._client.known(message.attempt.job_id) or {}
        except Exception:
            return False  # rather twice than never
        # Not only its state: another job with that id may have ended.
        return known.get("ended_by") == message.message_id

    def _keep(self, attempt: Attempt, **fields: Any) -> None:
        """Keep what is known of the job. If that fails, the job runs all the same."""
        try:
            self._client.keep(attempt.job_id, **{"attempts": attempt.number, **fields})
        except JobsUnavailable as error:
            report.log(
                events.STATUS_OLD, "the status of job %s is out of date: %s",
                attempt.job_id, error,
                facts={"job_id": attempt.job_id, "error": type(error).__name__},
            )  # fmt: skip
