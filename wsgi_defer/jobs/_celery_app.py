"""Celery, set up so that a job is not lost, and its worker."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps, signals
from celery.exceptions import Ignore, Reject
from kombu.entity import Exchange, Queue

from .._parent import end_with
from ._job import MOST_CRASHES

if TYPE_CHECKING:
    from ._jobs import Jobs

TASK = "wsgi_defer.job"
KEPT = 7 * 24 * 3600  # seconds that a result backend keeps a job's status


def make_app(url: str, jobs: Jobs, timeout: float | None) -> Celery:
    """A Celery app with one queue; ``timeout`` is for clients."""
    app = Celery("wsgi_defer", broker=url, backend=jobs.results, set_as_current=False)
    # In a routing key dots have a meaning; and "#.b", which delayed jobs are routed by,
    # would match those of the queue "a.b", too.
    key = jobs.queue.replace(".", "/")
    exchange = Exchange(jobs.queue, type="topic")  # delays cannot use a direct one
    kind = {"x-queue-type": "quorum"}
    options: dict[str, Any] = {"confirm_publish": True}  # or a lost job is not noticed
    if timeout:
        options |= {"max_retries": 0, "read_timeout": timeout, "write_timeout": timeout}
    app.conf.update(
        task_queues=[Queue(jobs.queue, exchange, key, queue_arguments=kind)],
        task_default_queue=jobs.queue,
        task_default_exchange=jobs.queue,
        task_default_exchange_type="topic",
        task_default_routing_key=key,
        task_create_missing_queues=False,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_accept_content=["json"],
        result_expires=KEPT,
        task_ignore_result=True,  # what is kept, we write
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # A job in hand waits for its time at the broker, in queues of Celery's. In the
        # worker it would be unacknowledged, which RabbitMQ ends after 30 minutes.
        broker_native_delayed_delivery_queue_type="quorum",
        broker_transport_options=options,
        broker_connection_timeout=timeout or 4,
        broker_connection_retry_on_startup=True,
        # Its signal is the one that a service manager sends to all processes.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        redis_socket_timeout=timeout or 10,
        redis_socket_connect_timeout=timeout or 10,
        redis_retry_on_timeout=False,
        result_backend_transport_options={
            "retry_policy": {"max_retries": 0, "timeout": timeout or 10}
        },
    )
    return app


@dataclass(frozen=True)
class Message:
    """One attempt of a job, as a worker gets it from the queue."""

    name: str
    payload: str
    job_id: str
    waits: list[float]
    attempt: int
    message_id: str | None
    again: bool  # it may have been given to a worker before
    crashes: int  # how often it came back


class Stop:
    """Whether the worker is told to stop. Its processes share the memory for it."""

    def __init__(self) -> None:
        self._told = mmap.mmap(-1, 1)

    def tell(self) -> None:
        self._told[0] = 1

    def is_told(self) -> bool:
        return self._told[0] != 0


def add_task(app: Celery, run: Callable[[Message], bool]) -> None:
    """Let it run jobs.

    ``run`` says whether the message is done with; if not, the broker is to keep it.
    """

    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def job(task: Task, name: str, payload: str, waits: list[float]) -> None:
        request = task.request
        # Quorum queues count how often a message came back.
        crashes = int((request.headers or {}).get("x-delivery-count") or 0)
        crashes = crashes or int(getattr(request, "x-delivery-count", None) or 0)
        message = Message(
            name, payload, request.id, waits, attempt=request.retries + 1,
            message_id=(request.properties or {}).get("message_id"),
            again=bool((request.delivery_info or {}).get("redelivered")),
            crashes=crashes,
        )  # fmt: skip
        with unstopped():
            done = run(message)
        if not done:
            raise Reject("its next attempt could not be stored", requeue=True)
        raise Ignore  # it is acknowledged, and nothing else


def run_worker(app: Celery, processes: int, stop: Stop) -> None:
    """Run Celery's worker until SIGTERM or SIGINT."""

    class TellStop(bootsteps.StartStopStep):  # type: ignore[misc]
        """What Celery closes first when it stops, before it waits for its pool."""

        # Not its signal worker_shutting_down: that is sent by a signal handler, under a
        # lock, where a second SIGTERM would wait for ever.
        def close(self, worker: Any) -> None:
            stop.tell()

    app.steps["worker"].add(TellStop)
    parent = os.getpid()
    # A pool process: a job whose message goes back must not run on beside it.
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

    Celery's own process then waits for it.
    """
    # Not SIG_IGN, which the programs that a job starts would inherit.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def too_often(crashes: int) -> str | None:
    """What to say of a job that came back so often, if that is too often."""
    if crashes <= MOST_CRASHES:
        return None
    return f"its worker died, or was killed, {crashes} times"
