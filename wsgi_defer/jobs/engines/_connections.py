"""Connections that are kept for the next use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")
R = TypeVar("R")
MOST_IDLE = 10


class Connections(ABC, Generic[C]):
    """Opens connections when they are needed, and keeps some that are idle.

    No pool of a library: psycopg's has threads, and waits 30 seconds for a server.
    """

    def __init__(self) -> None:
        self._idle: list[C] = []  # append() and pop() are atomic

    @abstractmethod
    def open(self) -> C:
        """A new connection."""

    def prepare(self, connection: C) -> None:
        """Make it ready. Called before each use."""

    @abstractmethod
    def was_dead(self, connection: C, error: BaseException) -> bool:
        """Whether the use failed only because the connection was an old one."""

    @abstractmethod
    def drop(self, connection: C) -> None:
        """Close a connection whose use has failed."""

    @abstractmethod
    def close_idle(self, connection: C) -> None:
        """Close a connection that works."""

    def run(self, use: Callable[[C], R]) -> R:
        """Call that with a connection. Call it again if an old connection was dead.

        So its work may be done twice, if the server died just after it did it.
        """
        while True:
            try:
                connection, old = self._idle.pop(), True
            except IndexError:
                connection, old = self.open(), False
            try:
                self.prepare(connection)
                answer = use(connection)
            except BaseException as error:
                again = old and self.was_dead(connection, error)
                self.drop(connection)
                if again:
                    continue
                raise
            if len(self._idle) < MOST_IDLE:
                self._idle.append(connection)
            else:
                self.close_idle(connection)
            return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self.close_idle(self._idle.pop())
