"""What the log says seldom: once a minute, or once for each name."""

from __future__ import annotations

import math
import mmap
import time
from zlib import crc32

MINUTE = 60.0  # seconds
_MANY = 2**16


class EachMinute:
    """Tells whether a message is due: the first time, and then once a minute."""

    def __init__(self) -> None:
        self._last: dict[object, float] = {}

    def due(self, message: object) -> bool:
        now = time.monotonic()
        if now - self._last.get(message, -math.inf) < MINUTE:
            return False
        self._last[message] = now
        return True


class OncePerName:
    """Tells whether a name is new here, or in a process that was forked later.

    RQ forks a process for each job, so its processes share this memory. It holds no
    names, only marks: of two names with the same mark, the second counts as known.
    """

    def __init__(self) -> None:
        self._marks = mmap.mmap(-1, _MANY)

    def is_new(self, name: object) -> bool:
        place = crc32(ascii(name).encode()) % _MANY
        if self._marks[place]:
            return False
        self._marks[place] = 1
        return True
