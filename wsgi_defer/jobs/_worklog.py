"""What a worker says about the jobs that it runs."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import Literal

from .._runtime import events, report
from .errors import JobsUnavailable

Outcome = Literal["done", "failed", "again"]
MARKS = {"started": b"s", "done": b"d", "failed": b"f", "again": b"a"}


class WorkLog:
    """Logs a line for each attempt that ends, and counts attempts, if told where.

    The count is a file of one letter for each event. The processes of a worker share
    it, and its offset; so none of them loses a count when another is killed.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None

    def count_into(self, file: int) -> None:
        """Count there, in this process and its forks."""
        try:
            os.set_inheritable(file, False)  # not by commands that handlers start
            self._file, self._identity = file, identity(file)
        except OSError:
            pass  # whoever started this process has closed it

    def started(self) -> None:
        """An attempt starts."""
        self._mark("started")

    def ended(
        self,
        name: str,
        job_id: str,
        attempt: int,
        outcome: Outcome,
        *,
        waited: float | None,
        ran: float,
        again_in: float | None = None,
    ) -> None:
        """An attempt has ended. Times are in seconds; None for what is not known."""
        self._mark(outcome)
        if not report.heard(events.JOB_ATTEMPT):
            return
        told = outcome if again_in is None else f"again in {again_in:g} s"
        wait = "" if waited is None else f"waited {waited:.3f} s, "
        report.log(
            events.JOB_ATTEMPT, "%s %s attempt %d: %s (%sran %.3f s)", name, job_id,
            attempt, told, wait, ran,
            facts={
                "job": name, "job_id": job_id, "attempt": attempt, "outcome": outcome,
                "waited": waited, "ran": ran, "again_in": again_in,
            },
        )  # fmt: skip

    def _mark(self, event: str) -> None:
        if self._file is None:
            return
        try:
            # A fork may have closed it, and have another file of that number.
            if identity(self._file) == self._identity:
                os.write(self._file, MARKS[event])
        except OSError:
            pass  # the disk is full; the jobs matter more


def tell_unavailable(error: JobsUnavailable) -> None:
    """Log that the engine cannot be reached by a worker, which tries it again."""
    cause = error.__cause__
    report.log(
        events.JOBS_UNAVAILABLE, "%s (%s); tried again", error, cause,
        facts={"engine": error.engine, "error": type(cause).__qualname__},
    )  # fmt: skip


def identity(file: int) -> tuple[int, int]:
    """The device and the inode of an open file."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino


def new_count() -> int | None:
    """An open file to count into, which has no name; None if there is no place."""
    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError:
        return None


def summary(file: int) -> str:
    """What the processes have counted there, in words. Closes it."""
    with open(file, "rb") as counted:
        counted.seek(0)
        counts = Counter(counted.read())
    started, done, failed, again = (counts[mark[0]] for mark in MARKS.values())
    back = started - done - failed - again
    return (
        f"{done} done, {failed} failed, {again} to be tried again, {back} given back "
        "unfinished"
    )
