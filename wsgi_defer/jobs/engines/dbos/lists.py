"""The jobs in DBOS's tables, listed and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..._job import Job, State
from .database import Busy
from .tables import FAILED, FIRST, NEXT, STATES, Attempts, is_attempt

FAILED_IN_SQL = ", ".join(f"'{status}'" for status in FAILED)
# Without them, counts() and failed() would read the whole table in SQLite.
INDICES = [
    "CREATE INDEX IF NOT EXISTS wsgi_defer_counts ON workflow_status "
    "(application_name, status, name)",
    "CREATE INDEX IF NOT EXISTS wsgi_defer_failed ON workflow_status "
    f"(application_name, completed_at) WHERE status IN ({FAILED_IN_SQL})",
]
# As text, or SQLite would not use the index.
HAS_FAILED: sa.ColumnElement[bool] = sa.literal_column(
    f"workflow_status.status IN ({FAILED_IN_SQL})"
)


def make_indices(engine: sa.Engine) -> None:
    """Make the indices that are missing, unless somebody else is writing just now.

    Then this is left to the next process: they only make it faster.
    """
    try:
        with engine.begin() as connection:
            for index in INDICES:
                connection.exec_driver_sql(index)
    except Busy:
        pass


class Lists(Attempts):
    """Lists and counts the jobs of one queue."""

    def recent(self, limit: int, name: str | None, state: State | None) -> list[Job]:
        """Jobs of that name, or any, in that state, or any; the latest first."""
        first = self._status.alias("first_attempt")
        row = self._status
        query = sa.select(first.c.workflow_uuid).where(*self._named(first, name))
        if state is None:
            query = query.where(
                first.c.name == FIRST,
                # Not by an index on it: SQLite would then sort all rows by their time.
                sa.func.coalesce(first.c.application_name, "") == self._owner,
                *is_attempt(first, self._serial),
            )  # fmt: skip
        else:
            statuses = [status for status in STATES if STATES[status] == state]
            query = query.where(
                first.c.workflow_uuid == job_of(row).concat("1"),
                row.c.status.in_(statuses), self._ours, self._is_last(),
            )  # fmt: skip
        latest = [first.c.created_at.desc(), *self._order("first_attempt", first)]
        rows = self._ask(query.order_by(*latest).limit(limit))
        jobs = self.jobs(self._serial.jobs(row.workflow_uuid for row in rows))
        return [job for job in jobs if state in (None, job.state)]

    def failed(self, limit: int, name: str | None) -> list[Job]:
        """The jobs that failed last, the latest first."""
        table, output = self._status, self._output
        rows = self._ask(
            sa.select(table.c.workflow_uuid)
            .outerjoin(output, output.c.workflow_uuid == table.c.workflow_uuid)
            .where(HAS_FAILED, self._ours, self._is_last(),
                   *self._named(table, name))
            .order_by(table.c.completed_at.desc(),
                      *self._order("workflow_output", table))
            .limit(limit)
        )  # fmt: skip
        jobs = self.jobs(self._serial.jobs(row.workflow_uuid for row in rows))
        return [job for job in jobs if job.state == "failed"]

    def counts(self, by_name: bool) -> list[tuple[str, State, int]]:
        """How many jobs of each name, or of all together as "", are in each state.

        Counted by attempts, as one query of them is quick. Those after the first are
        the successors of as many others. Only of failed ones it is looked up whether
        they have one; all others that have ended with one count as done.
        """
        counts: Counter[tuple[str, str]] = Counter()
        later: Counter[str] = Counter()
        # Without names, by an index alone, in which the ids are not.
        nearly = self._status.c.application_name == self._owner
        for row in self._count(by_name, self._ours if by_name else nearly):
            if row.name in (FIRST, NEXT):
                counts[row.handler, row.status] += row.number
            if row.name == NEXT:
                later[row.handler] += row.number
        if later and any(status in FAILED for _, status in counts):
            followed = HAS_FAILED, self._ours, sa.not_(self._is_last())
            for row in self._count(by_name, *followed):
                counts[row.handler, row.status] -= row.number
                later[row.handler] -= row.number
        for handler, number in later.items():
            counts[handler, "SUCCESS"] -= number
        return [
            (handler, STATES.get(status, "failed"), max(number, 0))
            for (handler, status), number in counts.items()
        ]

    def _count(
        self, by_name: bool, *conditions: sa.ColumnElement[bool]
    ) -> Sequence[sa.Row[Any]]:
        """How many attempts have the same handler, status and workflow."""
        table, given = self._status, self._input
        handler = self._name() if by_name else sa.literal_column("''")
        query = sa.select(
            handler.label("handler"), table.c.status, table.c.name,
            sa.func.count().label("number"),
        ).where(*conditions).group_by(table.c.status, table.c.name)  # fmt: skip
        if by_name:
            query = query.group_by(handler)
            query = query.join(given, given.c.workflow_uuid == table.c.workflow_uuid)
        return self._ask(query)

    def _is_last(self) -> sa.ColumnElement[bool]:
        """Whether no other attempt follows a row."""
        row, other = self._status, self._status.alias("following")
        job = job_of(row)
        rest = sa.func.nullif(
            sa.func.substr(row.c.workflow_uuid, sa.func.length(job) + 1), ""
        )
        after = sa.cast(sa.cast(rest, sa.BigInteger) + 1, sa.Text)
        found = sa.select(1).where(other.c.workflow_uuid == job.concat(after))
        return sa.not_(sa.exists(found.correlate(row)))

    def _named(self, table: Any, name: str | None) -> Sequence[sa.ColumnElement[bool]]:
        """Conditions that the attempts of that name meet; none for no name."""
        if name is None:
            return []
        given = self._input
        return [given.c.workflow_uuid == table.c.workflow_uuid, self._name() == name]

    def _name(self) -> sa.ColumnElement[str]:
        """The handler's name: the first string of the JSON in ``inputs``.

        Cut out, as it has no quotes. Not every row there need be JSON, and payloads
        may be long.
        """
        text = self._input.c.inputs
        if self.engine.dialect.name == "sqlite":
            rest = sa.func.substr(text, sa.func.instr(text, ', "') + 3)
            return sa.func.substr(rest, 1, sa.func.instr(rest, '"') - 1)
        pattern: sa.ColumnElement[str] = sa.literal_column(
            '\'^[^"]*"args": [^"]*"([^"]*)"\''
        )
        return sa.func.substring(text, pattern)

    def _order(self, table: str, rows: Any) -> list[Any]:
        """The order of rows that have the same time, the latest first.

        With Python before 3.12, DBOS's times in SQLite are whole seconds.
        """
        if self.engine.dialect.name == "sqlite":
            return [sa.literal_column(f"{table}.rowid").desc()]
        return [rows.c.workflow_uuid]


def job_of(table: Any) -> sa.ColumnElement[str]:
    """What the ids of all attempts of one job start with."""
    return sa.func.rtrim(table.c.workflow_uuid, "0123456789")
