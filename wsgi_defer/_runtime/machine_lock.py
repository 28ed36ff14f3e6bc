"""Locks by name, which one thread of this machine has at a time.

A lock is a file, locked by flock(2), in a private directory of this user. The kernel
frees it when its holder ends, however that ends; a process that the holder forks has no
part in it. On Linux, taking one and giving it back costs 30 to 60 microseconds.

Shared memory would need a way to find out that a holder has died; the kernel knows.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from weakref import WeakSet

from .clock import monotonic

BOOT = "/proc/sys/kernel/random/boot_id"
SWEEP = 3600.0  # seconds between two looks for files that nobody needs any more
LENGTH = 120  # bytes of a file: the boot, until when it is kept, the token
_held: WeakSet[MachineLock] = WeakSet()
_next_sweep = [0.0]


class MachineLock:
    """A lock that this thread has. It may leave word for the next one to have it.

    ``until`` is the time, by the monotonic clock, until which an earlier holder keeps
    its name; 0 if none does. ``token`` is what a holder has noted that died; empty if
    there was none.
    """

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        _held.add(self)
        self._written = self.until, self.token = _read(fd)

    @classmethod
    def take(cls, name: str) -> MachineLock | None:
        """Take the lock of that name; None if it is taken.

        Raises ``OSError`` if the directory cannot be used.
        """
        home = folder()
        _sweep_at_times(home)
        digest = sha256(name.encode(errors="surrogatepass")).hexdigest()
        path = os.path.join(home, digest[:32])
        while True:
            fd = _lock(path, os.O_CREAT)
            if fd is None:
                return None
            if os.fstat(fd).st_nlink:
                return cls(path, fd)
            os.close(fd)  # its last holder has removed it, before we got it

    def note(self, token: str) -> None:
        """Write it down, for the case that this process dies."""
        self._write(self.until, token)

    def free(self, keep: float = 0.0, token: str = "") -> None:
        """Give it back. For ``keep`` seconds, its name is then kept."""
        self._end(monotonic() + keep if keep else 0.0, token)

    def put_back(self, token: str = "") -> None:
        """Give it back, and leave its name as it was."""
        self._end(self.until, token)

    def _end(self, until: float, token: str) -> None:
        if self._fd < 0:  # in a child, which has no part in it
            return
        try:
            if until or token:
                self._write(until, token)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
        finally:
            self._close()

    def _write(self, until: float, token: str) -> None:
        if self._written == (until, token):
            return
        self._written = until, token
        # Always as long: a file that is cut costs ten times as much when it is closed,
        # as ext4 then takes care that its new content survives a crash.
        text = f"{_boot()} {until!r} {token}".ljust(LENGTH)
        os.pwrite(self._fd, text.encode(), 0)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        fcntl.flock(fd, fcntl.LOCK_UN)  # also for a process that is being forked now
        os.close(fd)

    def __del__(self) -> None:
        # An exception came between take() and the ``try`` that gives it back.
        if self._fd >= 0:
            self._close()


def _close_all() -> None:
    # In a child. Its parent has the locks.
    for lock in list(_held):
        fd, lock._fd = lock._fd, -1
        if fd >= 0:
            os.close(fd)


os.register_at_fork(after_in_child=_close_all)


def folder() -> str:
    """The directory of the files. Raises ``OSError`` if others can write there."""
    user = os.geteuid()
    path = os.path.join(tempfile.gettempdir(), f"wsgi_defer-{user}")
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != user
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise PermissionError(
            f"{path} is not a directory that only user {user} can use, so wsgi_defer "
            "puts no locks there. Remove it, or set TMPDIR to a directory of your own"
        )
    return path


def _lock(path: str, create: int = 0) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | create, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return fd


def _read(fd: int) -> tuple[float, str]:
    """Until when the name is kept, or 0, and the token."""
    boot, until, token = (*os.pread(fd, LENGTH, 0).decode().split(), "", "", "")[:3]
    # After a boot, the clock begins anew. In a new file, nothing is written.
    if boot != _boot() or float(until) <= monotonic():
        return 0.0, token
    return float(until), token


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        with open(BOOT) as file:
            return file.read().strip()
    except OSError:  # not Linux
        return "-"


def _sweep_at_times(home: str) -> None:
    now = monotonic()
    if now < _next_sweep[0]:
        return
    _next_sweep[0] = now + SWEEP
    for entry in os.scandir(home):
        with suppress(OSError):  # somebody else removes it
            if time.time() - entry.stat().st_mtime > SWEEP:
                _remove_if_over(entry.path)


def _remove_if_over(path: str) -> None:
    fd = _lock(path)
    if fd is not None:
        try:
            if not _read(fd)[0]:
                os.unlink(path)
        finally:
            os.close(fd)
