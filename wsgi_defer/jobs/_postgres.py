"""Connections to PostgreSQL that give up in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

R = TypeVar("R")
TIMEOUT = (
    1.5  # seconds that an answer may take; to connect, libpq allows no less than 2
)
KEPT = 10  # idle connections


class Impatient(psycopg.Connection[Any]):
    """A connection whose server may take only so long for an answer.

    The server's own ``statement_timeout`` is of no use when it is the server that
    hangs. After that, the connection is of no use.
    """

    patience: float | None = TIMEOUT
    hangs = False

    def wait(
        self, gen: Any, interval: float = 0.1, timeout: float | None = None
    ) -> Any:
        if self.hangs:  # SQLAlchemy rolls back
            raise psycopg.OperationalError("the server does not answer")
        patience = timeout or self.patience
        begun = time.monotonic()
        try:
            return super().wait(gen, interval, patience)
        except psycopg.OperationalError:
            self.hangs = patience is not None and time.monotonic() - begun >= patience
            raise


class Connections:
    """Connections that are made when they are needed, and kept for the next use.

    Not psycopg's pool: that has threads, and waits 30 seconds for a server.
    """

    def __init__(self, url: str, first: Callable[[Impatient], None]) -> None:
        self._url = url
        self._first = first
        self._prepared = False
        self._idle: list[Impatient] = []  # append() and pop() are atomic

    def run(self, ask: Callable[[Impatient], R]) -> R:
        """Call that with a connection; once more, if an old one turns out to be dead.

        So it may do its work twice, if the server died just after it did it.
        """
        while True:
            try:
                connection, old = self._idle.pop(), True
            except IndexError:
                connection, old = self.open(), False
            try:
                if not self._prepared:
                    self._first(connection)
                    self._prepared = True
                answer = ask(connection)
            except BaseException:
                dead = connection.closed
                connection.close()
                if old and dead:
                    continue
                raise
            if len(self._idle) < KEPT:
                self._idle.append(connection)
            else:
                connection.close()
            return answer

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

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().close()
