"""What the page tells about jobs. It is read seldom, as the engine may be far away."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from ..jobs._job import State
from ..jobs.errors import JobsUnavailable, NotSupported
from ._words import seconds

if TYPE_CHECKING:
    from ..jobs import Job, Jobs
    from ..jobs._schedule import Schedule

LISTED = 20  # jobs, each of the latest and the failed ones
KEPT = 1.0  # seconds that an answer is shown
KEPT_DOWN = 10.0  # the same for an engine that is down: to find out may take 2 s


class Due(NamedTuple):
    """The next time of a periodic job."""

    name: str
    every: str
    at: datetime


class Board(NamedTuple):
    """Counts and lists of jobs; empty where ``problems`` says why."""

    counts: dict[str, dict[State, int]]
    due: list[Due]
    recent: list[Job]
    failed: list[Job]
    problems: list[str]


class Reader:
    """Reads the board, or returns the one read a moment ago. Thread-safe."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._kept: tuple[float, Board] | None = None

    def __call__(self) -> Board:
        kept = self._kept
        if kept is None or kept[0] < time.monotonic():
            board, lasts = _read(self._jobs)
            self._kept = kept = time.monotonic() + lasts, board
        return kept[1]

    def forget(self) -> None:
        """Read anew next time: something was done."""
        self._kept = None


def _read(jobs: Jobs) -> tuple[Board, float]:
    """The board, and the seconds that it may be shown."""
    board = Board({}, _due(jobs), [], [], [])
    questions: list[Callable[[], object]] = [
        lambda: board.counts.update(jobs.counts(by_name=True)),
        lambda: board.failed.extend(jobs.failed(LISTED)),
        lambda: board.recent.extend(jobs.recent(LISTED)),
    ]
    for ask in questions:
        try:
            ask()
        except NotSupported as error:
            board.problems.append(str(error))
        except JobsUnavailable as error:
            board.problems.append(str(error))
            return board, KEPT_DOWN
    return board, KEPT


def _due(jobs: Jobs) -> list[Due]:
    now = datetime.now(timezone.utc)
    due = [Due(each.name, _every(each), each.after(now)) for each in jobs.schedules]
    return sorted(due, key=lambda each: each.at)


def _every(schedule: Schedule) -> str:
    if isinstance(schedule.every, timedelta):
        return seconds(schedule.every.total_seconds())
    return str(schedule)
