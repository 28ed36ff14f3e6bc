"""What a worker says about the jobs that it runs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Literal

logger = logging.getLogger("wsgi_defer")
Outcome = Literal["done", "failed", "again"]
MARKS = {"started": b"s", "done": b"d", "failed": b"f", "again": b"a"}


class WorkLog:
    """Logs a line for each attempt that ends, and counts attempts, if told where.

    The count is a file of one letter for each event. The processes of a worker append
    to it; so none of them loses a count when another is killed.
    """

    path: str | None = None

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
        if not logger.isEnabledFor(logging.INFO):
            return
        told = outcome if again_in is None else f"again in {again_in:g} s"
        wait = "" if waited is None else f"waited {waited:.3f} s, "
        logger.info(
            "%s %s attempt %d: %s (%sran %.3f s)", name, job_id, attempt, told, wait,
            ran,
            extra={
                "job_name": name, "job_id": job_id, "job_attempt": attempt,
                "job_outcome": outcome, "job_waited": waited, "job_ran": ran,
                "job_again_in": again_in,
            },
        )  # fmt: skip

    def _mark(self, event: str) -> None:
        if self.path is None:
            return
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, MARKS[event])
            finally:
                os.close(file)
        except OSError:
            pass  # the command has ended, or the disk is full; the jobs matter more


def summary(path: str) -> str:
    """What the processes have counted there, in words."""
    with open(path, "rb") as file:
        counts = Counter(file.read())
    started, done, failed, again = (counts[mark[0]] for mark in MARKS.values())
    back = started - done - failed - again
    return (
        f"{done} done, {failed} failed, {again} to be tried again, {back} given back "
        "unfinished"
    )
