"""Wakes the workers of a SQLite file when a job is stored.

Beside the file there is a FIFO for each slot. Who has stored a job writes a byte to all
of them. A byte only means "look": it is not trusted, and one that is lost costs time,
as the workers also look from time to time.
"""

from __future__ import annotations

import math
import os
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from .sqlite_file import PRIVATE

NOW = b"n"  # a job may be waiting
LATER = b"l"  # one may be due sooner than what was known
# Seconds. So soon, a worker sees jobs of those that do not ring, such as an older
# release or another program: they change the file's log.
GLANCE = 0.25
LOOK = 10.0  # seconds after which a worker looks at the jobs in any case


class Bells:
    """The FIFOs of all slots of a queue: ``path``-0, ``path``-1 and so on.

    Whoever may write to the database, whose path is ``like``, may ring.
    """

    def __init__(self, path: str, like: str) -> None:
        self._path = path
        self._like = like

    def ring(self, what: bytes = NOW) -> None:
        """Wake all workers."""
        number = 0
        while (fd := self._open(number)) is not None:
            if fd >= 0:
                with suppress(OSError):  # it is full, so that worker is awake
                    os.write(fd, what)
                os.close(fd)
            number += 1

    def make(self, number: int) -> int | None:
        """Open the FIFO of a slot, to read; None if there can be none here."""
        try:
            # All up to that one, as ring() stops at the first that is missing.
            for each in range(number + 1):
                with suppress(FileExistsError):
                    os.mkfifo(self._name(each), PRIVATE)
        except OSError:  # the file system has none
            pass
        fd = self._open(number)
        if fd is None or fd < 0:
            return None
        with suppress(OSError):  # it belongs to another user
            os.fchmod(fd, stat.S_IMODE(os.stat(self._like).st_mode))
        return fd

    def _open(self, number: int) -> int | None:
        """Open that FIFO; -1 if that is not possible, None if it does not exist."""
        try:
            # Also to read: a process that writes when nobody reads gets a signal, which
            # would end a server that does not ignore it.
            fd = os.open(self._name(number), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError:
            return -1
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return -1

    def _name(self, number: int) -> str:
        return f"{self._path}-{number}"


class Bell:
    """What a worker waits at until it should look for a job, and may run one.

    ``fifo`` is what others ring, if there is one, and ``watched`` a file that changes
    when they store a job. Without them, ``look`` is all that makes it look again.
    """

    def __init__(
        self, fifo: int | None, watched: str | None = None, look: float = LOOK
    ) -> None:
        # This process rings by a pipe of its own, as the FIFO may be replaced.
        self._end, self._start = os.pipe()
        for fd in (self._end, self._start):
            os.set_blocking(fd, False)
        self._fds = [self._end] if fifo is None else [self._end, fifo]
        self._poll = select.poll()
        for fd in self._fds:
            self._poll.register(fd, select.POLLIN)
        self._watched = watched
        self._look = look
        self._glance = look if watched is None else min(GLANCE, look)
        self._rung = True  # there may be jobs from before
        self._seen: tuple[int, int, int] | None = None
        self._again = math.inf  # when it looks once more, on the monotonic clock
        self.has_room: Callable[[], bool] = lambda: True
        self.later: Callable[[], None] = lambda: None  # called for ``LATER``
        self.stopped = False

    def ring(self) -> None:
        """Look again: from any thread of this process, and from a signal handler."""
        with suppress(OSError):  # it is full, or closed
            os.write(self._start, NOW)

    def stop(self) -> None:
        """Look no more."""
        self.stopped = True
        self.ring()

    def wait(self) -> None:
        """Return when there may be a job, and room to run it; or if it is stopped."""
        until = time.monotonic() + self._look
        while not self.stopped:
            room = self.has_room()
            changed = self._state() if room else self._seen
            now = time.monotonic()
            over = now >= min(until, self._again)
            if room and (self._rung or over or changed != self._seen):
                # The file changes before what is in it can be seen.
                self._again = math.inf if changed == self._seen else now + self._glance
                self._rung = False
                self._seen = changed
                return
            self._listen(self._glance if room else self._look)

    def _listen(self, patience: float) -> None:
        for fd, _ in self._poll.poll(patience * 1000):
            with suppress(BlockingIOError):
                rung = os.read(fd, 4096)
                self._rung = self._rung or any(byte != ord(LATER) for byte in rung)
                if LATER in rung:
                    self.later()

    def _state(self) -> tuple[int, int, int] | None:
        if self._watched is None:
            return None
        try:
            found = os.stat(self._watched)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def close(self) -> None:
        """Close what it waits at."""
        for fd in (*self._fds, self._start):
            os.close(fd)
