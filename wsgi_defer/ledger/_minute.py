"""The last minute of a worker: how much of each second was spent on what."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from struct import Struct

from . import _layout as at

SECONDS = 60
NOTHING = (0.0, 0.0)
_RING = Struct("Qdd" * at.RING)


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
    ring = _RING.unpack_from(memory, start * at.WORD)
    last = int(now)
    spent = dict(zip(ring[::3], zip(ring[1::3], ring[2::3], strict=True), strict=True))
    seconds = range(last - SECONDS + 1, last + 1)
    for began, what in under_way:
        for second in range(max(int(began), seconds[0]), last + 1):
            more = min(now, second + 1) - max(began, second)
            in_request, after = spent.get(second, NOTHING)
            if what == at.IN_REQUEST:
                spent[second] = in_request + more, after
            else:
                spent[second] = in_request, after + more
    return tuple([spent.get(second, NOTHING) for second in seconds])
