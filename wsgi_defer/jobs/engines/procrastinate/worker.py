"""Procrastinate's worker, and the rescue of jobs that it drops."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Protocol, TypeVar

import procrastinate
from procrastinate import jobs as rows
from procrastinate import worker

from ...._runtime import events, report
from ..._attempt import Attempt, AttemptFailed
from ..._job import MOST_CRASHES, describe
from ...errors import JobsUnavailable
from .. import _words
from .._engine import Served
from .._postgres import Impatient

R = TypeVar("R")

TASK = "wsgi_defer.job"
POLL = 1.0  # seconds; PostgreSQL tells of new jobs, but not of those that become due
HEARTBEAT = 5.0  # seconds between two signs of life of a worker
SILENCE = 30.0  # seconds without one after which its jobs are started again
RESCUE = 5.0  # seconds between two looks for such jobs
PATIENCE = 5.0  # seconds that it waits for a connection, and for the server at its end
STORING = 30.0  # seconds in which a worker tries to store a job's outcome
NOTE = "wsgi_defer"  # where a job's context has what is stored with its outcome
# These records of Procrastinate hold a job's arguments. jobs.run() logs failures
# without.
WITH_ARGUMENTS = {"loaded_job_info", "start_job", "job_success", "job_error",
                  "job_error_retry", "finish_task", "ending_job"}  # fmt: skip


class Client(Protocol):
    """What a worker needs of the engine's client."""

    def ask(self, doing: str, ask: Callable[[Impatient], R]) -> R: ...


class Waits(procrastinate.BaseRetryStrategy):
    """Waits as long as the handler's back-off says."""

    def get_retry_decision(
        self, *, exception: BaseException, job: rows.Job
    ) -> procrastinate.RetryDecision | None:
        wait = exception.wait if isinstance(exception, AttemptFailed) else None
        if wait is None:
            return None
        retry_in: Any = {"seconds": wait}
        return procrastinate.RetryDecision(retry_in=retry_in)


class Worker(worker.Worker):
    """Procrastinate's, which stores a job's outcome and its state in one step."""

    client: Client

    @property
    def busy(self) -> bool:
        """Whether it runs a job."""
        return bool(self._running_jobs)

    async def _persist_job_status(
        self,
        job: rows.Job,
        status: rows.Status,
        retry_decision: procrastinate.RetryDecision | None,
        context: procrastinate.JobContext,
        job_result: Any,
    ) -> None:
        due = retry_decision and retry_decision.retry_at
        args = context.additional_context.get(NOTE, {})
        deadline = time.monotonic() + STORING
        while True:
            try:
                await asyncio.to_thread(
                    settle, self.client, job, args, status.value, due
                )
                break
            except JobsUnavailable:
                if time.monotonic() > deadline:
                    # The job counts as running as long as this worker shows signs of
                    # life.
                    self.stop()  # type: ignore[no-untyped-call]
                    raise
                await asyncio.sleep(POLL)
        self._job_ids_to_abort.pop(job.id or 0, None)


def settle(
    client: Client, job: rows.Job, args: dict[str, Any], status: str, due: Any
) -> None:
    """Store the outcome of that job, unless another worker has it by now."""

    def store(connection: Impatient) -> None:
        with connection.transaction():
            row = connection.execute(
                "UPDATE procrastinate_jobs SET args = args || %s::jsonb WHERE id = %s "
                "AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %s "
                "RETURNING id",
                [json.dumps(args), job.id, job.worker_id],
            ).fetchone()
            if row is None:
                return
            if due is not None:
                connection.execute(
                    "SELECT procrastinate_retry_job_v2(%s, %s, NULL, NULL, NULL)",
                    [job.id, due],
                )
            else:
                connection.execute(
                    "SELECT procrastinate_finish_job_v1(%s, "
                    "%s::procrastinate_job_status, false)",
                    [job.id, status],
                )

    client.ask(_words.STORING_OUTCOME, store)


def work(client: Client, url: str, jobs: Served, threads: int) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    logging.getLogger("procrastinate.worker").addFilter(without_arguments)
    asyncio.run(run(client, url, jobs, threads))


def without_arguments(record: logging.LogRecord) -> bool:
    """A logging filter that passes only records without a payload."""
    return getattr(record, "action", None) not in WITH_ARGUMENTS


async def run(client: Client, url: str, jobs: Served, threads: int) -> None:
    """Run the worker, and look for jobs of dead workers meanwhile."""
    # Some more: outcomes are stored in threads, too.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads + 4))
    connector = procrastinate.PsycopgConnector(
        conninfo=url, min_size=1, max_size=4, timeout=PATIENCE
    )
    app = procrastinate.App(connector=connector)

    @app.task(name=TASK, pass_context=True, retry=Waits())
    def task(context: procrastinate.JobContext, /, **args: Any) -> None:
        run_attempt(
            jobs, context.additional_context, args, partial(settle, client, context.job)
        )

    async with app.open_async():
        running = Worker(
            app,
            queues=[jobs.queue],
            concurrency=threads,
            fetch_job_polling_interval=POLL,
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=SILENCE,
            # Its own handlers end the process at a second signal. That may be the same
            # stop, from a service manager.
            install_signal_handlers=False,
        )
        running.client = client
        stopped = asyncio.Event()

        def stop() -> None:
            stopped.set()
            running.stop()  # type: ignore[no-untyped-call]

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        rescuing = asyncio.create_task(rescue(client, app, jobs.queue))
        working = asyncio.create_task(running.run())  # type: ignore[no-untyped-call]
        leaving = asyncio.create_task(time_to_leave(running, stopped))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                await working
        except procrastinate.exceptions.ConnectorException as error:
            if not stopped.is_set():
                raise
            report.log(
                events.LEAVING_FAILED,
                "the worker could not tell the server that it ends: %s",
                describe(error), facts={"error": type(error).__qualname__},
            )  # fmt: skip
        finally:
            rescuing.cancel()
            leaving.cancel()


async def time_to_leave(running: Worker, stopped: asyncio.Event) -> None:
    """Return when the worker was stopped, and has run no job for a while.

    It tells the server that it ends, and would wait for the answer without a limit.
    """
    await stopped.wait()
    free = 0.0
    while free < PATIENCE:
        await asyncio.sleep(POLL)
        free = 0.0 if running.busy else free + POLL


def run_attempt(
    jobs: Served,
    context: dict[str, Any],
    args: dict[str, Any],
    store: Callable[[dict[str, Any], str, Any], None],
) -> None:
    """Run a job's handler, in a thread, and note what came of it.

    ``store`` does what ``settle()`` does, for a handler that does not end.
    """
    attempt = Attempt(args["id"], args["name"], args["payload"], args["waits"],
                      args.get("failures", 0) + 1,
                      absences=args.get("absences", 0),
                      due=args.get("due"))  # fmt: skip

    def give_up(failed: AttemptFailed) -> None:
        due = None
        if failed.wait is not None:
            due = datetime.now(timezone.utc) + timedelta(seconds=failed.wait)
        store(note_of(failed), "failed", due)

    try:
        result = attempt.run(jobs, store=give_up)
    except AttemptFailed as failed:
        context[NOTE] = note_of(failed)
        raise
    if result is not None:
        context[NOTE] = {"result": json.dumps(result)}


def note_of(failed: AttemptFailed) -> dict[str, Any]:
    # As text: PostgreSQL's JSON has no NUL and no lone surrogates.
    return {"failures": failed.following.number - 1,
            "absences": failed.following.absences,
            "due": failed.following.due,
            "error": json.dumps(failed.error)}  # fmt: skip


async def rescue(client: Client, app: procrastinate.App, queue: str) -> None:
    """Queue the jobs of dead workers again, which Procrastinate does not do.

    Not as one of its periodic tasks: that would wait while all workers are busy, and
    leave a row in the table each time.
    """
    while True:
        try:
            for job in await app.job_manager.get_stalled_jobs(
                queue=queue, task_name=TASK, seconds_since_heartbeat=SILENCE
            ):
                await asyncio.to_thread(recover, client, job)
        except Exception as error:
            report.log(
                events.RESCUE_FAILED, "looking for jobs of dead workers: %s",
                describe(error), facts={"error": type(error).__qualname__},
            )  # fmt: skip
        await asyncio.sleep(RESCUE)


def recover(client: Client, job: rows.Job) -> None:
    """Queue that job again, unless another worker was faster.

    If its workers died too often, it fails instead.
    """

    def again(connection: Impatient) -> None:
        with connection.transaction():
            row = connection.execute(
                "SELECT coalesce((args->>'crashes')::int, 0) FROM procrastinate_jobs "
                "WHERE id = %s AND status = 'doing' AND "
                "worker_id IS NOT DISTINCT FROM %s FOR UPDATE SKIP LOCKED",
                [job.id, job.worker_id],
            ).fetchone()
            if row is None:
                return
            args: dict[str, Any] = job.task_kwargs
            note: dict[str, Any] = {"crashes": row[0] + 1}
            then = "SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)"
            if row[0] >= MOST_CRASHES:
                note["error"] = json.dumps(_words.died())
                note["failures"] = args.get("failures", 0) + 1
                then = "SELECT procrastinate_finish_job_v1(%s, 'failed', false)"
            connection.execute(
                "UPDATE procrastinate_jobs SET args = args || %s::jsonb WHERE id = %s",
                [json.dumps(note), job.id],
            )
            connection.execute(then, [job.id])

    client.ask(_words.RESCUING, again)
