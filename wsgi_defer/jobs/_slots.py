"""Slots: the names under which workers run jobs, each used by one process at a time."""

from __future__ import annotations

import fcntl
import os
from typing import Protocol
from zlib import crc32

import sqlalchemy as sa

MOST = 1000


class Slots(Protocol):
    """Locks by number, which end with the process that holds them."""

    def take(self, number: int) -> bool:
        """Lock it, unless another process has it."""

    def give_back(self, number: int) -> None:
        """Unlock it."""

    def check(self) -> None:
        """Raise if what was taken is lost."""

    def close(self) -> None:
        """Give all back."""


class FileSlots:
    """One byte of a file each.

    POSIX locks: unlike those of flock(2), a process that a job has forked, and that
    outlives its worker, does not keep them.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, number: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # which one is up to the system
            return False
        return True

    def give_back(self, number: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def check(self) -> None:
        """The kernel keeps them."""

    def close(self) -> None:
        os.close(self._fd)


class PostgresSlots:
    """Advisory locks of one connection of their own.

    They end with it. So that the server also notices a machine that is gone, it asks
    after 30 idle seconds, three times.
    """

    def __init__(self, engine: sa.Engine, queue: str) -> None:
        self._class = crc32(f"wsgi_defer.jobs {queue}".encode()) - 2**31  # an int4
        self._engine = engine
        self._connection = engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        )
        for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
            self._connection.execute(sa.text(f"SET tcp_keepalives_{name} = {value}"))

    def take(self, number: int) -> bool:
        return bool(self._ask("pg_try_advisory_lock", number))

    def give_back(self, number: int) -> None:
        self._ask("pg_advisory_unlock", number)

    def _ask(self, function: str, number: int) -> object:
        query = sa.text(f"SELECT {function}(:class, :number)")
        return self._connection.execute(
            query, {"class": self._class, "number": number}
        ).scalar()

    def check(self) -> None:
        self._connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


def take_one(slots: Slots, wanted: int) -> int:
    """Take the wanted slot, or else the first that is free; return its number."""
    numbers: list[int] = [wanted, *range(MOST)]
    for number in numbers:
        if slots.take(number):
            return number
    raise RuntimeError(f"all {MOST} slots for workers of this queue are taken")
