"""The last minute of a worker: how much of each second was spent on what."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from . import _layout as at

SECONDS = 60


class Minute:
    """A ring of seconds. It is written when something ends, for the time it has taken.

    No lock: threads that are at the turn of a second at once may lose a part of it.
    """

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._numbers = memoryview(memory).cast("Q")
        self._times = memoryview(memory).cast("d")
        self._start = start
        # A second, its end, and its place: what is short only adds to that.
        self.now = (0.0, 0.0, start)

    def spread(self, began: float, ended: float, what: int) -> None:
        """That much time was spent in a request, or after a response."""
        place = self._start
        first = int(max(began, ended - SECONDS))
        for second in range(first, int(ended) + 1):
            place = self._start + second % at.RING * 3
            if self._numbers[place] != second:
                self._times[place + at.IN_REQUEST] = 0
                self._times[place + at.AFTER_RESPONSE] = 0
                self._numbers[place] = second
            spent = min(ended, second + 1) - max(began, second)
            self._times[place + what] += spent
        self.now = float(int(ended)), int(ended) + 1.0, place


def read_minute(
    memory: mmap.mmap, start: int, now: float, under_way: Iterable[tuple[float, int]]
) -> tuple[tuple[float, float], ...]:
    """The last 60 seconds, the oldest first.

    ``under_way`` has what has not ended: since when, and what it is.
    """
    numbers = memoryview(memory).cast("Q")
    ring = memoryview(memory)[start * 8 : (start + at.RING * 3) * 8].cast("d")
    seconds = range(int(now) - SECONDS + 1, int(now) + 1)
    minute = []
    for second in seconds:
        place = second % at.RING * 3
        known = numbers[start + place] == second
        spent = [0.0, *ring[place + 1 : place + 3]] if known else [0.0, 0.0, 0.0]
        for began, what in under_way:
            spent[what] += max(0.0, min(now, second + 1) - max(began, second))
        minute.append((spent[at.IN_REQUEST], spent[at.AFTER_RESPONSE]))
    return tuple(minute)
