"""Slots: the numbers of a queue's worker processes, each used by one at a time."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from stat import S_IMODE
from typing import Protocol
from weakref import WeakSet
from zlib import crc32

import sqlalchemy as sa

from .sqlite_file import PRIVATE

MOST = 1000
# Seconds. A worker shows signs of life more often, until it is told to stop.
SILENCE = 60.0


class Slots(Protocol):
    """Locks by number, which end with the process that holds them.

    A holder that has lost a lock may take it again within ``grace`` seconds.
    """

    grace: float

    def take(self, number: int) -> bool:
        """Lock it, unless another process has it."""

    def give_back(self, number: int) -> None:
        """Unlock it."""

    def check(self) -> bool:
        """Whether all are still held. Takes again what was lost.

        It is also a sign of life.
        """

    def is_silent(self, number: int) -> bool:
        """Whether it is held, but shows no sign of life, as if by a stranger."""

    def name(self, number: int) -> str:
        """What is locked, for a message."""

    def close(self) -> None:
        """Unlock all."""


class FileSlots:
    """A file for each, locked by flock(2).

    A POSIX lock is lost as soon as the process closes any descriptor of the file, as a
    handler does that copies the directory. This one stays. But a process that a job
    has forked shares it, and may outlive the worker, so it closes the files at once.
    (F_OFD_SETLK would need only one file, but its struct differs between systems.)

    Each user who can open a file can lock it. So it gets the mode of the database,
    whose path is ``like``.
    """

    grace = 0.0

    def __init__(self, path: str, like: str | None = None) -> None:
        self._path = path
        self._like = like
        self._held: dict[int, int] = {}  # file descriptors
        FILES.add(self)

    def take(self, number: int) -> bool:
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW
        fd = os.open(self.name(number), flags, PRIVATE)
        try:
            self._set_mode(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._held[number] = fd
        self.check()
        return True

    def _set_mode(self, fd: int) -> None:
        mode = PRIVATE
        if self._like is not None:
            with suppress(FileNotFoundError):  # it is private when it is made
                mode = S_IMODE(os.stat(self._like).st_mode)
        if S_IMODE(os.fstat(fd).st_mode) != mode:
            with suppress(PermissionError):  # it belongs to another user
                os.fchmod(fd, mode)

    def give_back(self, number: int) -> None:
        fd = self._held.pop(number)
        fcntl.flock(fd, fcntl.LOCK_UN)  # also for a process that is being forked now
        os.close(fd)

    def check(self) -> bool:
        for fd in self._held.values():
            with suppress(PermissionError):  # only its group's, and read-only
                os.utime(fd)
        return True  # the kernel keeps them

    def is_silent(self, number: int) -> bool:
        return time.time() - os.stat(self.name(number)).st_mtime > SILENCE

    def name(self, number: int) -> str:
        return f"{self._path}-{number}"

    def close(self) -> None:
        for number in list(self._held):
            self.give_back(number)

    def forget(self) -> None:
        """In a child: leave all to the parent."""
        while self._held:
            os.close(self._held.popitem()[1])


FILES: WeakSet[FileSlots] = WeakSet()


def forget_all() -> None:
    for slots in FILES:
        slots.forget()


os.register_at_fork(after_in_child=forget_all)


class PostgresSlots:
    """Advisory locks, on a connection of their own.

    They end with it, even if the server is only restarted. A holder that checks every
    few seconds has them back within the grace. To notice a machine that is gone, the
    server probes after 30 idle seconds, three times.
    """

    grace = 10.0

    def __init__(self, engine: sa.Engine, queue: str) -> None:
        self._class = crc32(f"wsgi_defer.jobs {queue}".encode()) - 2**31  # an int4
        self._engine = engine
        self._held: set[int] = set()
        self._kept = True
        self._connection = self._connect()

    def _connect(self) -> sa.Connection:
        connection = self._engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        )
        for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
            connection.execute(sa.text(f"SET tcp_keepalives_{name} = {value}"))
        return connection

    def take(self, number: int) -> bool:
        taken = bool(self._ask("pg_try_advisory_lock", number))
        if taken:
            self._held.add(number)
        return taken

    def give_back(self, number: int) -> None:
        self._held.discard(number)
        self._ask("pg_advisory_unlock", number)

    def _ask(self, function: str, number: int) -> object:
        query = sa.text(f"SELECT {function}(:class, :number)")
        return self._connection.execute(
            query, {"class": self._class, "number": number}
        ).scalar()

    def check(self) -> bool:
        lost = self._connection.invalidated
        if not lost:
            try:
                self._connection.execute(sa.text("SELECT 1"))
            except sa.exc.SQLAlchemyError:
                lost = True
        if lost:
            # Close the old one first: it may be alive, and hold the locks.
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.invalidate()
            self._connection = self._connect()
            self._kept = False
        if not self._kept:
            self._kept = all(self._ask("pg_try_advisory_lock", number)
                              for number in self._held)  # fmt: skip
        return self._kept

    def is_silent(self, number: int) -> bool:
        return False  # the server does not tell

    def name(self, number: int) -> str:
        return f"the advisory lock ({self._class}, {number})"

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


def take_one(slots: Slots, wanted: int) -> int:
    """Take the wanted slot, or the first that is free; return its number."""
    numbers: list[int] = [wanted, *range(MOST)]
    for number in numbers:
        if slots.take(number):
            return number
    raise RuntimeError(f"all {MOST} slots for workers of this queue are taken")
