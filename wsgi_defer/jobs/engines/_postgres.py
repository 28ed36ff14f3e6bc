"""Connections to PostgreSQL that give up in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..._runtime.clock import monotonic
from . import _connections

# Seconds that an answer may take. To connect, libpq allows no less than 2.
TIMEOUT = 1.5


class Impatient(psycopg.Connection[Any]):
    """A connection that waits only so long for the server's answer.

    The server's own ``statement_timeout`` does not help if it is the server that
    hangs. After a timeout, the connection cannot be used any more.
    """

    patience: float | None = TIMEOUT
    hangs = False

    def wait(
        self, gen: Any, interval: float = 0.1, timeout: float | None = None
    ) -> Any:
        if self.hangs:  # SQLAlchemy rolls back
            raise psycopg.OperationalError("the server does not answer")
        patience = timeout or self.patience
        started = monotonic()
        try:
            return super().wait(gen, interval, patience)
        except psycopg.OperationalError:
            waited = monotonic() - started
            self.hangs = patience is not None and waited >= patience
            raise


class Connections(_connections.Connections[Impatient]):
    """Connections to one database. ``first`` is called once, before their first use."""

    def __init__(self, url: str, first: Callable[[Impatient], None]) -> None:
        super().__init__()
        self._url = url
        self._first = first
        self._prepared = False

    def open(self) -> Impatient:
        """A new connection, which commits each statement."""
        options = conninfo_to_dict(self._url).get("options") or ""
        milliseconds = int(TIMEOUT * 1000)
        return Impatient.connect(
            self._url,
            autocommit=True,
            connect_timeout=2,
            options=f"{options} -c statement_timeout={milliseconds}".strip(),
        )

    def prepare(self, connection: Impatient) -> None:
        if not self._prepared:
            self._first(connection)
            self._prepared = True

    def was_dead(self, connection: Impatient, error: BaseException) -> bool:
        return connection.closed

    def drop(self, connection: Impatient) -> None:
        connection.close()

    def close_idle(self, connection: Impatient) -> None:
        connection.close()
