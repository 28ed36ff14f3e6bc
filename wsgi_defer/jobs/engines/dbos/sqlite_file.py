"""The file of a SQLite database: checks whether it can hold jobs, and creates it."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time

from ...._runtime.clock import monotonic

# The write-ahead log needs memory that all its processes share, and locks that work:
# https://www.sqlite.org/wal.html, https://www.sqlite.org/faq.html#q5
ELSEWHERE = re.compile(
    r"(nfs\d?|cifs|smb\w*|9p|afs|ceph|lustre|beegfs|glusterfs|vboxsf|prl_fs|davfs"
    r"|fuse\.(sshfs|s3fs|gcsfuse|rclone|glusterfs|davfs2?|vmhgfs-fuse|ceph\w*"
    r"|grpcfuse|osxfs))"
)
MOUNTS = "/proc/self/mountinfo"
# The first version with unixepoch('subsec'), which DBOS 3.4 uses from Python 3.12 on.
SUBSECONDS = (3, 42)


def check_sqlite() -> None:
    """Refuse a SQLite that DBOS cannot use. Raises ``ValueError``."""
    if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < SUBSECONDS:
        raise ValueError(
            "sqlite:// needs SQLite 3.42 or later with Python 3.12 and later, and this "
            f"Python has SQLite {sqlite3.sqlite_version}. Use Python 3.11, a Python "
            "with a newer SQLite, or the URL of a server, such as redis://"
        )


def check_file(path: str) -> None:
    """Refuse a file that cannot hold jobs. Raises ``ValueError``."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ValueError(f"there is no directory {folder} for the jobs; make it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is not a file, so it cannot hold jobs")
    found = mounts()
    if any(point == path for point, _ in found):
        raise ValueError(
            f"{path} is itself a mount point. SQLite keeps a log beside the file, and "
            "each container would have its own, which destroys the file. Mount the "
            f"directory {folder} instead"
        )
    if os.path.exists(path) and os.stat(path).st_nlink > 1:
        raise ValueError(
            f"{path} has several hard links. SQLite keeps a log beside the file, and "
            "each name would have its own, which destroys the file. Remove the other "
            "names; to share it with a container, mount the directory"
        )
    # SQLite makes files beside it, for its log and its locks.
    for place in (folder, path):
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise ValueError(f"{place} cannot be written by this user")
    kind = file_system(folder, found)
    if kind is not None and ELSEWHERE.fullmatch(kind):
        raise ValueError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks do "
            "not work. Put the file on a local disk, or use the URL of a server"
        )


def file_system(folder: str, found: list[tuple[str, str]]) -> str | None:
    """The type of that directory's file system; None if the system does not tell.

    ``found`` is what ``mounts()`` returns.
    """
    folder = os.path.realpath(folder)
    kind, longest = None, -1
    for point, its_kind in found:
        inside = f"{folder}/".startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # a later one hides an earlier
            kind, longest = its_kind, len(point)
    return kind


def mounts() -> list[tuple[str, str]]:
    """All mount points and their file systems; none if the system does not tell."""
    found = []
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                # 36 35 98:0 /root /mount/point options shared:1 - ext4 /dev/sda1 rw
                before, _, after = line.partition(" - ")
                found.append((unescape(before.split(" ")[4]), after.split(" ")[0]))
    except (OSError, IndexError):
        return []
    return found


def unescape(point: str) -> str:
    """The path of a mount point: spaces are written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)


PRIVATE = 0o600  # the mode of a new file


class FileGone(Exception):  # noqa: N818 - says what happened
    """The file was removed, or replaced by another, while it was open."""


def identity(path: str) -> tuple[int, int] | None:
    """The device and the inode of the file of that name; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_same(path: str, file: tuple[int, int] | None) -> None:
    """Raise ``FileGone`` unless the file of that name is still that one."""
    if identity(path) != file:
        raise FileGone(
            f"{path} was removed or replaced while this process had it open; the next "
            "call opens the file that is there then, or makes a new one"
        )


def make(path: str) -> None:
    """Make an empty file for this user only. One that is there keeps its mode.

    It stays closed if it is there: to close a file drops all POSIX locks that this
    process has on it. SQLite gives its log and its shared memory the same mode.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    except FileExistsError:
        pass


def make_ready(path: str, patience: float) -> None:
    """Create the file, with a write-ahead log, and check that it can be written.

    With this log, readers and one writer do not wait for each other. It is a property
    of the file, and must be set before DBOS opens it: afterwards "database is locked".
    Raises ``sqlite3.Error`` after ``patience`` seconds.
    """
    make(path)
    deadline = monotonic() + patience
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    try:
        while True:
            # Two processes may do so at the same time. SQLite does not wait here.
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                if monotonic() >= deadline:
                    raise
                time.sleep(0.02)
            else:
                return
    finally:
        connection.close()
