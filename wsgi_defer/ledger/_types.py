"""What a snapshot is made of: plain tuples, so that they can be compared and kept."""

from __future__ import annotations

from typing import NamedTuple

OTHER = "other"  # the name of all calls over the names that the ledger has room for


class Histogram(NamedTuple):
    """How many times lay between which bounds."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, ascending. Infinity is implied as the last one."""
    counts: tuple[int, ...]
    """How many lay in each bucket, a bound belonging to the one below. Not cumulative,
    and one more than there are bounds."""
    sum: float
    """Seconds, of all."""

    @property
    def total(self) -> int:
        """How many, in all."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The seconds which that share did not exceed: 0.5 is the median.

        Interpolated inside its bucket; of those above the last bound, that bound. None
        if there are none. Raises ``ValueError`` unless ``q`` is from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1, not {q}")
        rank = q * self.total
        below, lower = 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * (rank - below) / count
            below, lower = below + count, bound
        return lower if self.total else None


class CallFigures(NamedTuple):
    """All calls of one name, in all workers, also in those that have ended."""

    name: str
    """What logs call them; "other" for those over the 128 names of a worker."""
    finished: int
    failed: int
    skipped: int
    lost: int
    waiting: int
    """Now, before their start."""
    running: int
    """Now."""
    waited: Histogram
    """From the registration to the start, of those that have started and ended."""
    ran: Histogram
    """From the start to the end, of the same."""


class Failure(NamedTuple):
    """A call that failed."""

    at: float
    """Unix time."""
    name: str
    error: str
    """The class name of the exception. Not its text, which may hold private data."""
    origin: str
    """The line that deferred the call, as ``file:line``."""
    request_id: str
    """Empty if the call belonged to no request."""
    pid: int
    """The worker's process id."""


class WorkerFigures(NamedTuple):
    """A worker that is alive."""

    pid: int
    started_at: float
    """Unix time."""
    state: str
    """"idle", "request", "after response" or "stopping"; with threads, what at least
    one of them does: "after response" only if none has a request."""
    since: float
    """Unix time at which that state began."""
    call: str
    """The call that runs; empty if none does. The one that has run longest, if several
    run."""
    request_id: str
    """Of that call."""
    waiting: int
    """Calls that wait in it."""
    requests: int
    """Served so far."""
    memory: int | None
    """Bytes that are resident; None where ``/proc`` does not tell."""
    minute: tuple[tuple[float, float], ...]
    """The last 60 seconds, the oldest first: for each, the seconds spent in a request,
    and after a response. With threads, more than 1 is possible."""


class Snapshot(NamedTuple):
    """The figures of one moment."""

    taken_at: float
    """Unix time."""
    started_at: float
    """Unix time at which recording began."""
    whole: bool
    """True: all workers of one gunicorn master. False: this process only."""
    name: str
    """gunicorn's ``proc_name``; empty without gunicorn."""
    workers: tuple[WorkerFigures, ...]
    """The oldest first."""
    calls: tuple[CallFigures, ...]
    """Sorted by name."""
    failures: tuple[Failure, ...]
    """The last 50 failed calls, the latest first."""
    requests: int
    """Served by all workers, also by those that have ended."""
    slow: int
    """Calls that ran longer than ``slow_after``."""
    lost: int
    """Calls that were lost, also those that only the master has named."""
    queue: int | None
    """Connections that wait for a worker now; None if the system does not tell."""
    queue_longest: int | None
    """The most that any snapshot has found. Nobody looks in between."""
    queue_limit: int | None
    """The most that can wait."""
    all_busy: int
    """How often all workers were busy at once, as PHP-FPM's "max children reached"."""
    oldest_waiting: float | None
    """Seconds that the call which waits longest has waited; None if none waits."""
