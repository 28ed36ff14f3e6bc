"""The clock of limits, deadlines and waits, which no test can stop.

freezegun replaces ``time.monotonic`` wherever it finds it, and a wait would then never
end; time-machine leaves it. What is only told, such as a request's duration, is read
from ``time.monotonic``, and dates from ``time.time``: these a test may move.
"""

from __future__ import annotations

from time import CLOCK_MONOTONIC, clock_gettime


def monotonic() -> float:
    """Seconds, as ``time.monotonic()``; on every POSIX system."""
    return clock_gettime(CLOCK_MONOTONIC)
