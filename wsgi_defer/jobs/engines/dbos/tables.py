"""The attempts of jobs in DBOS's tables.

Read with our own SQL, and by primary key. DBOS's client would unpickle anything that
claims to be a pickle, and would search the whole table for a prefix of ids.
"""

from __future__ import annotations

import json
import time as clock
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..._attempt import Attempt
from ..._job import Job, State, is_id, utc
from ..._progress import NOTHING, from_text
from .. import _words
from .serializer import Json

FIRST = "wsgi_defer.job"  # the DBOS workflow of each job's first attempt
NEXT = "wsgi_defer.attempt"  # and of all others
PROGRESS = "wsgi_defer.progress"  # the only one of our events
STATES: dict[str, State] = {
    "ENQUEUED": "queued",
    "DELAYED": "scheduled",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
FAILED = [status for status, state in STATES.items() if state == "failed"]
ERRORS = {
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": _words.died(),
}
ENDED = ("done", "failed", "cancelled")
SPAN = 8  # places that are looked up at a time
AT_ONCE = 400  # ids in one query; SQLite before 3.32 allows 999


def arguments(attempt: Attempt) -> tuple[Any, ...]:
    """The arguments of an attempt's workflow, as they are stored."""
    some = attempt.number, attempt.name, attempt.waits, attempt.error, attempt.payload
    # Only if there are any, as an older release does not know them.
    return (*some, attempt.absences) if attempt.absences else some


def from_arguments(
    job_id: str,
    number: int,
    name: str,
    waits: list[float],
    error: str | None,
    payload: str,
    absences: int = 0,
) -> Attempt:
    """The attempt that has these arguments."""
    return Attempt(job_id, name, payload, waits, number, error, absences)


class Serial:
    """Makes a workflow's id of a job's id, and the place of an attempt in the job."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def id(self, job_id: str, place: int) -> str:
        """The workflow's id. None of the three parts can contain a colon."""
        return f"{self._queue}:{job_id}:{place}"

    @property
    def prefix(self) -> str:
        """What the ids of all workflows of this queue start with."""
        return f"{self._queue}:"

    def split(self, workflow_id: str) -> tuple[str, int] | None:
        """The job's id and the place; None if it is not an attempt of a job."""
        job_id, _, place = workflow_id.removeprefix(self.prefix).partition(":")
        if not (is_id(job_id) and place.isascii() and place.isdecimal()):
            return None
        found = job_id, int(place[:9])
        return found if self.id(*found) == workflow_id else None

    def jobs(self, workflow_ids: Iterable[str]) -> list[str]:
        """The jobs' ids. Ids that are not attempts of jobs are left out."""
        return [found[0] for id_ in workflow_ids if (found := self.split(id_))]


def columns(*names: str) -> list[sa.ColumnClause[Any]]:
    return [sa.column(name) for name in names]


def is_attempt(table: Any, serial: Serial) -> list[sa.ColumnElement[bool]]:
    """Conditions that the attempts of the queue meet.

    Other rows are those of a release with other workflows, or of ``dbos workflow
    fork``, which makes ids of its own.
    """
    return [
        table.c.name.in_([FIRST, NEXT]),
        table.c.workflow_uuid.startswith(serial.prefix, autoescape=True),
    ]


class Attempts:
    """Reads the attempts of one queue's jobs.

    ``file`` is the device and the inode of the SQLite file that it reads.
    """

    def __init__(
        self,
        engine: sa.Engine,
        serial: Serial,
        owner: str,
        file: tuple[int, int] | None = None,
    ) -> None:
        self.engine = engine
        self.file = file
        self._serial = serial
        self._owner = owner
        schema = None if engine.dialect.name == "sqlite" else "dbos"
        self._status = sa.table(
            "workflow_status",
            *columns("workflow_uuid", "name", "status", "created_at", "completed_at",
                     "started_at_epoch_ms", "delay_until_epoch_ms", "executor_id",
                     "application_name", "queue_name", "deduplication_id",
                     "owner_xid", "updated_at"),
            schema=schema,
        )  # fmt: skip
        self._ours = sa.and_(
            self._status.c.application_name == owner, *is_attempt(self._status, serial)
        )
        self._input = sa.table(
            "workflow_input", *columns("workflow_uuid", "inputs"), schema=schema
        )
        # DBOS's own place for what a workflow tells while it runs.
        self._events = sa.table(
            "workflow_events",
            *columns("workflow_uuid", "key", "value", "serialization"),
            schema=schema,
        )
        self._output = sa.table(
            "workflow_output",
            *columns("workflow_uuid", "output", "error"),
            schema=schema,
        )

    def _ask(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def _by_id(self, table: sa.TableClause, ids: Iterable[str]) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        wanted = list(ids)
        for start in range(0, len(wanted), AT_ONCE):
            chosen = table.c.workflow_uuid.in_(wanted[start : start + AT_ONCE])
            for row in self._ask(sa.select(*table.c).where(chosen)):
                rows[row.workflow_uuid] = row
        return rows

    def exists(self, workflow_id: str) -> bool:
        return bool(self._by_id(self._status, [workflow_id]))

    def of(self, job_ids: Sequence[str]) -> dict[str, list[sa.Row[Any]]]:
        """All attempts of those jobs, in order. Unknown jobs are left out."""
        found: dict[str, list[sa.Row[Any]]] = {job_id: [] for job_id in job_ids}
        first, wanted = 1, list(found)
        while wanted:
            places = range(first, first + SPAN)
            id_of = self._serial.id
            rows = self._by_id(
                self._status, [id_of(job, place) for job in wanted for place in places]
            )
            for job in wanted:
                ids = [id_of(job, place) for place in places]
                found[job] += [rows[id_] for id_ in ids if id_ in rows]
            first += SPAN
            wanted = [job for job in wanted if len(found[job]) == first - 1]
        return {job: rows for job, rows in found.items() if rows}

    def done(self, before: float, after: str) -> tuple[list[list[str]], str | None]:
        """Some jobs after that id that had ended well by then, as their attempts' ids.

        And the id where to continue, None at the end.
        """
        table = self._status
        moment = int(before * 1000)
        query = (
            sa.select(table.c.workflow_uuid)
            .where(table.c.name == FIRST, self._ours,
                   table.c.created_at < moment, table.c.workflow_uuid > after)
            .order_by(table.c.workflow_uuid)
            .limit(AT_ONCE // SPAN)
        )  # fmt: skip
        first = [row.workflow_uuid for row in self._ask(query)]
        attempts = self.of(self._serial.jobs(first)).values()
        done = [
            [row.workflow_uuid for row in rows]
            for rows in attempts
            if STATES.get(rows[-1].status) in ("done", "cancelled")
            and (rows[-1].completed_at or moment) < moment
        ]
        return done, first[-1] if first else None

    def last(self, job_id: str) -> tuple[int, State, Attempt] | None:
        """The place and the state of the last attempt, as of one read, and the attempt.

        Raises as ``parse()``.
        """
        rows = self.of([job_id]).get(job_id)
        if rows is None:
            return None
        id_ = rows[-1].workflow_uuid
        attempt = parse(job_id, self._by_id(self._input, [id_])[id_].inputs)
        return len(rows), STATES.get(rows[-1].status, "failed"), attempt

    def jobs(self, job_ids: Sequence[str]) -> list[Job]:
        """What is known of them, in that order."""
        attempts = self.of(job_ids)
        last = [rows[-1].workflow_uuid for rows in attempts.values()]
        inputs = self._by_id(self._input, last)
        outputs = self._by_id(self._output, last)
        running = [rows[0].workflow_uuid for rows in attempts.values()
                   if STATES.get(rows[-1].status) == "running"]  # fmt: skip
        told = self._by_id(self._events, running) if running else {}
        return [
            self._job(
                job_id, rows, inputs.get(rows[-1].workflow_uuid),
                outputs.get(rows[-1].workflow_uuid), told.get(rows[0].workflow_uuid),
            )
            for job_id, rows in attempts.items()
        ]  # fmt: skip

    def _job(
        self, job_id: str, rows: Sequence[sa.Row[Any]], given: Any, gave: Any, told: Any
    ) -> Job:
        row = rows[-1]
        state = STATES.get(row.status, "failed")
        try:
            attempt = parse(job_id, given.inputs)
            result = json.loads(gave.output) if state == "done" else None
            error = None if state == "done" else attempt.error
            if state == "failed":
                error = ERRORS.get(row.status) or json.loads(gave.error)["error"]
        except (AttributeError, ValueError, TypeError, KeyError) as problem:
            # Somebody else has written to the database.
            attempt, result = Attempt(job_id, "?", "null", []), None
            error = f"it cannot be read ({type(problem).__name__})"
        has_started = state in ("running", "done", "failed")
        started = [row.started_at_epoch_ms for row in rows if row.started_at_epoch_ms]
        due = row.delay_until_epoch_ms if state == "scheduled" else None
        return Job(
            job_id,
            attempt.name,
            state,
            attempt.number if has_started else attempt.number - 1,
            error,
            enqueued_at=time(rows[0].created_at),
            due_at=time(due),
            started_at=time(started[-1] if started else None),
            finished_at=time(row.completed_at if state in ENDED else None),
            result=result,
            payload=attempt.payload,
            progress=from_text(told.value, attempt.number) if told else NOTHING,
        )

    def cancel(self, workflow_id: str) -> bool:
        """Cancel an attempt as DBOS does, but only if it waits; whether it did."""
        table = self._status
        now = int(clock.time() * 1000)
        update = (
            sa.update(table)
            .where(table.c.workflow_uuid == workflow_id,
                   table.c.status.in_(["ENQUEUED", "DELAYED"]))
            .values(status="CANCELLED", queue_name=None, deduplication_id=None,
                    owner_xid=None, updated_at=now, completed_at=now)
        )  # fmt: skip
        with self.engine.begin() as connection:
            return connection.execute(update).rowcount == 1

    def tell(self, workflow_id: str, value: str) -> None:
        """Keep what a workflow tells, instead of what it told before.

        Without DBOS's set_event(), which keeps all of it, as steps to be run again.
        """
        make = {"sqlite": sqlite.insert}.get(
            self.engine.dialect.name, postgresql.insert
        )(self._events)
        row = {"workflow_uuid": workflow_id, "key": PROGRESS, "value": value,
               "serialization": Json().name()}  # fmt: skip
        put = make.values(row).on_conflict_do_update(
            index_elements=["workflow_uuid", "key"], set_={"value": value}
        )
        with self.engine.begin() as connection:
            connection.execute(put)

    def due(self, workflow_id: str) -> float | None:
        """The Unix time since when an attempt could have run."""
        row = self._by_id(self._status, [workflow_id]).get(workflow_id)
        if row is None:
            return None
        return float(max(row.created_at, row.delay_until_epoch_ms or 0)) / 1000

    def running(self, slot: str) -> set[str]:
        """The ids of the attempts that run, or ran, under that executor id."""
        table = self._status
        query = sa.select(table.c.workflow_uuid).where(
            table.c.status == "PENDING", self._ours, table.c.executor_id == slot
        )  # fmt: skip
        return {row.workflow_uuid for row in self._ask(query)}

    def slots(self) -> set[str]:
        """The executor ids under which jobs run, or ran."""
        table = self._status
        query = sa.select(table.c.executor_id).distinct().where(
            table.c.status == "PENDING", self._ours
        )  # fmt: skip
        return {row.executor_id for row in self._ask(query)}

    def next_due(self) -> float | None:
        """When the next delayed attempt is to be queued, as a Unix time."""
        due = self._status.c.delay_until_epoch_ms
        query = (
            sa.select(due)
            # As it is in the index, whose condition SQLite must find here.
            .where(self._status.c.status == sa.literal_column("'DELAYED'"),
                   # Not by an index on it: SQLite would then sort all delayed ones.
                   sa.func.coalesce(self._status.c.application_name, "") == self._owner)
            .order_by(due)
            .limit(1)
        )  # fmt: skip
        rows = self._ask(query)
        return rows[0].delay_until_epoch_ms / 1000 if rows else None

    def foreign(self) -> int:
        """How many workflows that wait or run in this application are not attempts."""
        table = self._status
        query = sa.select(sa.func.count().label("number")).where(
            table.c.status.in_(["ENQUEUED", "DELAYED", "PENDING"]),
            table.c.application_name == self._owner, sa.not_(self._ours),
        )  # fmt: skip
        return int(self._ask(query)[0].number)


def parse(job_id: str, inputs: str) -> Attempt:
    """An attempt as stored. Raises ``ValueError``, ``TypeError`` and ``KeyError``."""
    return from_arguments(job_id, *json.loads(inputs)["args"])


def time(milliseconds: int | None) -> datetime | None:
    return utc(None if milliseconds is None else milliseconds / 1000)
