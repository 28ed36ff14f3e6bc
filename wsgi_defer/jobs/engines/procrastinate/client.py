"""Jobs in PostgreSQL, by Procrastinate (https://procrastinate.readthedocs.io).

A job is one of Procrastinate's own rows. Our id is its queueing lock, with an index
that finds it and keeps it unique. What Procrastinate has no place for is in the job's
arguments: the error, the result, and the counts of failures and of crashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

import procrastinate
import psycopg
import psycopg.rows
from procrastinate.exceptions import (
    AlreadyEnqueued,
    ConnectorException,
    UniqueViolation,
)
from procrastinate.schema import SchemaManager
from psycopg.conninfo import conninfo_to_dict

from ..._job import Job, Order, State
from ..._progress import NOTHING, Progress, from_text
from ...errors import JobNotFailedError, UnknownJobError
from .. import _words
from .._engine import Engine, Served, check_waits
from .._postgres import Connections, Impatient
from .worker import TASK, work

R = TypeVar("R")
# A PostgreSQL channel's name has 63 bytes, "procrastinate_queue_v1#" among them.
LONGEST_QUEUE = 40
LOCK = 0x77646A  # of our own advisory lock: "wdj"

SCHEMA = f"""
CREATE UNIQUE INDEX IF NOT EXISTS wsgi_defer_job ON procrastinate_jobs (queueing_lock)
    WHERE task_name = '{TASK}';
CREATE INDEX IF NOT EXISTS wsgi_defer_failed ON procrastinate_jobs (queue_name)
    WHERE task_name = '{TASK}' AND status = 'failed';
"""

SELECT = f"""
SELECT job.id AS number, args, status::text, scheduled_at, times.*
  FROM procrastinate_jobs job, LATERAL (
    SELECT min(at) FILTER (WHERE type = 'deferred') AS enqueued_at,
           max(at) FILTER (WHERE type = 'started') AS started_at,
           max(at) FILTER (WHERE type IN ('succeeded', 'failed', 'aborted',
                                          'cancelled')) AS finished_at
      FROM procrastinate_events WHERE job_id = job.id) times
 WHERE task_name = '{TASK}'
"""  # noqa: S608 - a constant

# Only the next thousand, as an enqueue() of the same id waits meanwhile. Their events
# are deleted with them.
CLEAR = f"""
WITH chosen AS (
    SELECT id FROM procrastinate_jobs
     WHERE id > %s AND task_name = '{TASK}' AND queue_name = %s
       AND status IN ('succeeded', 'cancelled')
     ORDER BY id LIMIT 1000),
gone AS (
    DELETE FROM procrastinate_jobs job USING chosen
     WHERE job.id = chosen.id AND EXISTS (
        SELECT FROM procrastinate_events
         WHERE job_id = job.id AND type IN ('succeeded', 'cancelled')
           AND at < to_timestamp(%s))
    RETURNING job.id)
SELECT (SELECT count(*) FROM gone), (SELECT max(id) FROM chosen)
"""  # noqa: S608 - a constant

STATES: dict[str, State] = {
    "doing": "running",
    "succeeded": "done",
    "failed": "failed",
    "aborted": "failed",
    "cancelled": "cancelled",
}  # "todo" is queued or scheduled

# The same in SQL.
STATE = "CASE " + "".join(
    f"WHEN status = '{status}' THEN '{state}' " for status, state in STATES.items()
) + "WHEN scheduled_at > now() THEN 'scheduled' ELSE 'queued' END"  # fmt: skip


class Procrastinate(Engine):
    """A client of one queue of Procrastinate."""

    title = "Procrastinate on PostgreSQL"
    threads = True
    outages = (psycopg.Error, ConnectorException)

    def __init__(self, url: str, jobs: Served) -> None:
        if len(jobs.queue) > LONGEST_QUEUE:
            raise ValueError(
                f"the name of a queue on PostgreSQL has at most {LONGEST_QUEUE} "
                f"characters, not {len(jobs.queue)}"
            )
        self._url = url
        self._jobs = jobs
        self._connections = Connections(url, self.title, prepare)
        # Never opened: its pool has threads. Each query gets a connection of ours.
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())

    @staticmethod
    def check(url: str) -> None:
        """Refuse what libpq does not understand."""
        try:
            ports = str(conninfo_to_dict(url).get("port") or "")
        except psycopg.Error as error:
            # Not the error itself: it may repeat the password.
            raise ValueError(
                f"this is not a URL of PostgreSQL ({type(error).__name__})"
            ) from None
        if not all(port.isdigit() for port in ports.split(",") if port):
            raise ValueError(
                "the port in this URL of PostgreSQL is not a number; / ? @ in a "
                "password are written as %2F %3F %40"
            )

    def cause(self, error: BaseException) -> BaseException:
        return error.__cause__ or error  # psycopg's, inside Procrastinate's

    def ask(self, doing: str, ask: Callable[[Impatient], R]) -> R:
        """Call that with a connection. Raises ``JobsUnavailable``."""
        with self.reaching(doing):
            return self._connections.run(ask)

    def enqueue(self, order: Order) -> None:
        self.ask(_words.storing(order.name), partial(self._store, order))

    def enqueue_many(self, orders: Sequence[Order]) -> None:
        def store(connection: Impatient) -> None:
            with connection.transaction():
                for order in orders:
                    self._store(order, connection)

        self.ask(_words.storing_many(len(orders)), store)

    def _store(self, order: Order, connection: Impatient) -> None:
        due = datetime.now(timezone.utc) + timedelta(seconds=order.delay)
        task = self._app.configure_task(
            TASK,
            queue=self._jobs.queue,
            queueing_lock=self._lock(order.id),
            schedule_at=due if order.delay else None,
            connection=connection,
        )
        # A job that has this id stays as it is, and the transaction around this one, if
        # there is one, goes on.
        with suppress(AlreadyEnqueued, UniqueViolation), connection.transaction():
            task.defer(
                id=order.id,
                name=order.name,
                payload=order.payload,
                waits=[*order.handler.waits],
                due=due.timestamp(),
            )

    def _lock(self, job_id: str) -> str:
        """The queueing lock of that job. All queues of a database share these locks."""
        return f"{self._jobs.queue}:{job_id}"

    def _select(self, doing: str, rest: str, *values: object) -> list[Job]:
        def select(connection: Impatient) -> list[Job]:
            with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                cursor.execute(SELECT + rest, values)
                return [job_of(row) for row in cursor]

        return self.ask(doing, select)

    def status(self, job_id: str) -> Job | None:
        jobs = self._select(
            _words.READING, "AND queueing_lock = %s", self._lock(job_id)
        )
        return jobs[0] if jobs else None

    def failed(self, limit: int, name: str | None = None) -> list[Job]:
        return self._select(
            _words.LISTING_FAILED,
            "AND queue_name = %s AND status = 'failed' AND coalesce(args->>'name' = %s,"
            " true) ORDER BY times.finished_at DESC, job.id DESC LIMIT %s",
            self._jobs.queue, name, limit,
        )  # fmt: skip

    def recent(
        self, limit: int, name: str | None = None, state: State | None = None
    ) -> list[Job]:
        return self._select(
            _words.LISTING,
            f"AND queue_name = %s AND coalesce(args->>'name' = %s, true) "
            f"AND coalesce({STATE} = %s, true) ORDER BY job.id DESC LIMIT %s",
            self._jobs.queue, name, state, limit,
        )  # fmt: skip

    def counts(self, by_name: bool) -> Iterable[tuple[str, State, int]]:
        name = "args->>'name'" if by_name else "''"
        query = (
            f"SELECT {name}, {STATE}, count(*) FROM procrastinate_jobs "  # noqa: S608
            "WHERE task_name = %s AND queue_name = %s GROUP BY 1, 2"
        )

        def count(connection: Impatient) -> Any:
            return connection.execute(query, [TASK, self._jobs.queue]).fetchall()

        found: list[tuple[str, State, int]] = self.ask(_words.COUNTING, count)
        return found

    def cancel(self, job_id: str) -> None:
        job = self.status(job_id)
        if job is None:
            raise UnknownJobError(job_id)
        if not check_waits(job_id, job.state):
            return

        def cancel(connection: Impatient) -> bool:
            row = connection.execute(
                "SELECT procrastinate_cancel_job_v1(id, false, false) "
                "FROM procrastinate_jobs WHERE queueing_lock = %s AND task_name = %s",
                [self._lock(job_id), TASK],
            ).fetchone()
            return row is not None and row[0] is not None

        if not self.ask(_words.CANCELLING, cancel):
            self.cancel(job_id)  # it has changed since

    def retry(self, job_id: str) -> None:
        job = self.status(job_id)

        def again(connection: Impatient) -> bool:
            with connection.transaction():
                row = connection.execute(
                    "UPDATE procrastinate_jobs SET args = args - '{error,crashes,due,"
                    "absences}'::text[] || '{\"failures\": 0}' "
                    "WHERE queueing_lock = %s AND task_name = %s "
                    "AND status = 'failed' RETURNING id",
                    [self._lock(job_id), TASK],
                ).fetchone()
                if row is not None:
                    requeue(connection, row[0])
                return row is not None

        if job is None:
            raise UnknownJobError(job_id)
        if not self.ask(_words.RETRYING, again):
            job = self.status(job_id) or job
            raise JobNotFailedError(job_id, job.state)

    def clear(self, before: float) -> int:
        cleared = 0
        last: int | None = 0

        def next_ones(connection: Impatient) -> Any:
            values = [last, self._jobs.queue, before]
            return connection.execute(CLEAR, values).fetchone()

        while last is not None:
            count, last = self.ask(_words.CLEARING, next_ones)
            cleared += count
        return cleared

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        def store(connection: Impatient) -> None:
            connection.execute(
                "UPDATE procrastinate_jobs SET args = args || "
                "jsonb_build_object('progress', %s::text) WHERE queueing_lock = %s "
                "AND task_name = %s AND status = 'doing'",
                [progress.to_text(attempt), self._lock(job_id), TASK],
            )

        self.ask(_words.STORING_PROGRESS, store)

    def work(self, slot: int, processes: int, threads: int) -> None:
        with self.reaching(_words.STARTING):
            connection = self._connections.open()
            with connection:
                connection.patience = None
                connection.execute("SET statement_timeout = 0")
                prepare(connection)
            work(self, self._url, self._jobs, threads)

    def close(self) -> None:
        self._connections.close()


def prepare(connection: Impatient) -> None:
    """Make Procrastinate's tables, and our indices, unless they exist.

    Several processes may do so at the same time. Procrastinate's own schema fails for
    all but one.
    """
    there = "SELECT to_regclass('wsgi_defer_failed') IS NOT NULL"
    if connection.execute(there).fetchone() == (True,):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        tables = "SELECT to_regclass('procrastinate_jobs') IS NOT NULL"
        if connection.execute(tables).fetchone() == (False,):
            connection.execute(SchemaManager.get_schema())
        connection.execute(SCHEMA)


def requeue(connection: Impatient, number: int) -> None:
    """Queue a job again that runs or has failed."""
    connection.execute(
        "SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)", [number]
    )


def job_of(row: dict[str, Any]) -> Job:
    """A row of ``SELECT`` as a ``Job``."""
    args, due = row["args"], row["scheduled_at"]
    waits = due is not None and due > datetime.now(timezone.utc)
    state = STATES.get(row["status"], "scheduled" if waits else "queued")
    ended = state in ("done", "failed", "cancelled")
    told, attempt = args.get("progress"), args.get("failures", 0) + 1
    return Job(
        args["id"],
        args["name"],
        state,
        # A failure is counted when it is over.
        attempts=args.get("failures", 0) + (state in ("running", "done")),
        error=None if state == "done" else json.loads(args.get("error", "null")),
        enqueued_at=in_utc(row["enqueued_at"]),
        due_at=in_utc(due),
        started_at=in_utc(row["started_at"]),
        finished_at=in_utc(row["finished_at"] if ended else None),
        result=json.loads(args.get("result", "null")) if state == "done" else None,
        payload=args.get("payload"),
        progress=from_text(told, attempt) if state == "running" else NOTHING,
    )


def in_utc(moment: datetime | None) -> datetime | None:
    """The moment in UTC; the server tells it in the time zone of the database."""
    return moment and moment.astimezone(timezone.utc)


ENGINE = Procrastinate
