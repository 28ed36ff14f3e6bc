"""Sums over workers and calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..ledger import Snapshot, WorkerFigures

Minute = Sequence[tuple[float, float]]


class Totals(NamedTuple):
    """How many workers are in each state, and what became of all calls."""

    workers: int
    idle: int
    request: int
    after_response: int
    stopping: int
    finished: int
    failed: int
    skipped: int
    lost: int
    running: int
    waiting: int

    @property
    def active(self) -> int:
        """The workers that are not idle."""
        return self.workers - self.idle


def totals(snapshot: Snapshot) -> Totals:
    """Those of a snapshot."""
    states = [worker.state for worker in snapshot.workers]
    calls = snapshot.calls
    return Totals(
        workers=len(states),
        idle=states.count("idle"),
        request=states.count("request"),
        after_response=states.count("after response"),
        stopping=states.count("stopping"),
        finished=sum(call.finished for call in calls),
        failed=sum(call.failed for call in calls),
        skipped=sum(call.skipped for call in calls),
        lost=max(snapshot.lost, sum(call.lost for call in calls)),
        running=sum(call.running for call in calls),
        waiting=sum(worker.waiting for worker in snapshot.workers),
    )


def shares(minute: Minute) -> tuple[float, float]:
    """The parts of a minute in a request, and after a response: of 1, together."""
    request, after = _sums(minute)
    return request / (len(minute) or 1), after / (len(minute) or 1)


def of_all(workers: Iterable[WorkerFigures]) -> list[tuple[float, float]]:
    """The minute of all workers as one: the parts of each second."""
    seconds = [*zip(*(worker.minute for worker in workers), strict=False)]
    sums = [(_sums(second), len(second)) for second in seconds]
    return [(request / number, after / number) for (request, after), number in sums]


def bounded(pair: tuple[float, float]) -> tuple[float, float]:
    """With threads, both may be more than the second has; keep their proportion."""
    both = pair[0] + pair[1]
    return pair if both <= 1 else (pair[0] / both, pair[1] / both)


def _sums(pairs: Minute) -> tuple[float, float]:
    request = after = 0.0
    for pair in pairs:
        one, other = pair
        if one + other > 1:
            one, other = bounded(pair)
        request += one
        after += other
    return request, after
