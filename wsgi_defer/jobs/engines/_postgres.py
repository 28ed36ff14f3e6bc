"""Connections to PostgreSQL that give up in time, and what a pooler makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from ..._runtime.clock import monotonic
from ..errors import NotSupported
from . import _connections

# Seconds that an answer may take. To connect, libpq allows no less than 2.
TIMEOUT = 1.5
PostgresError = psycopg.Error  # for modules that know no psycopg
ROUNDS = 3  # of looks at a pooler


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
    """Connections to one database, for the engine of that title.

    ``first`` is called once, before their first use.
    """

    def __init__(
        self, url: str, title: str, first: Callable[[Impatient], None]
    ) -> None:
        super().__init__()
        self._url = url
        self._title = title
        self._first = first
        self._checked = False
        self._prepared = False

    def open(self) -> Impatient:
        """A new connection, which commits each statement."""
        connection = self._connect()
        try:
            if not self._checked:
                refuse_moving(self._title, connection, self._connect)
                self._checked = True
            # Not as an option of the connection: PgBouncer takes none. And not before
            # that check: the setting would stay in a server that others get.
            connection.execute(f"SET statement_timeout = {int(TIMEOUT * 1000)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> Impatient:
        return Impatient.connect(self._url, autocommit=True, connect_timeout=2)

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


def refuse_moving(
    title: str, connection: Impatient, another: Callable[[], Impatient]
) -> None:
    """Raise ``NotSupported`` behind a pooler that gives each transaction any server.

    Then what belongs to a session, such as a lock, would be another client's at once.
    ``another`` opens a second connection.
    """
    if pid(connection) != connection.info.backend_pid and is_moved(connection, another):
        raise NotSupported(
            title,
            "work through a pooler in transaction mode",
            "Set pool_mode = session in PgBouncer, or give Jobs() the URL of the "
            "server itself",
        )


def is_moved(connection: Impatient, another: Callable[[], Impatient]) -> bool:
    """Whether it is served by another process of the server than before.

    While a second connection is in a transaction, this one cannot have the process
    that serves that one. A pooler would give either the one that is free.
    """
    first = pid(connection)
    with another() as second:
        for _ in range(ROUNDS):
            with second.transaction():
                if pid(second) == first or pid(connection) != first:
                    return True
    return False


def pid(connection: Impatient) -> int:
    """The id of the server's process that serves this one."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    number: int = row[0]
    return number
