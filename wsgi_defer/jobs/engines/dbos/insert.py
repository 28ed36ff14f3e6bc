"""Many rows by few statements."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


class Insert:
    """What DBOS takes for a connection, to write one workflow after another.

    It keeps what DBOS wants to write. All workflows have the same statements, so
    ``run()`` executes each of them once, for all.
    """

    dialect = None  # DBOS compares it with its own

    def __init__(self) -> None:
        self.statements: dict[str, tuple[Any, list[dict[str, Any]]]] = {}
        self._options: dict[str, Any] = {}

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    def execution_options(self, **options: Any) -> None:
        self._options = options

    def execute(self, statement: Any, values: dict[str, Any]) -> Insert:
        table: str = statement.table.name
        self.statements.setdefault(table, (statement, []))[1].append(values)
        return self

    def fetchone(self) -> None:
        """No row was there before."""

    def run(self, connection: sa.Connection) -> None:
        """Write all of it."""
        connection.execution_options(**self._options)
        for statement, values in self.statements.values():
            connection.execute(statement, values)
