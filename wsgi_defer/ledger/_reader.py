"""Reads the ledger: from any process that has it, while others write."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from struct import Struct

from . import _layout as at
from ._entries import used_entries
from ._ledger import Ledger, Record, failures_of, figures_by_name
from ._minute import read_minute
from ._queue import listen_queue
from ._types import CallFigures, Failure, Histogram, Snapshot, WorkerFigures

TRIES = 100  # while others write
PAUSE = 0.0005  # seconds, between two of them
_FIGURES = Struct(f"{at.FIGURES}Q")
Entry = tuple[int, float, float, bytes, bytes]  # as it is packed


@dataclass
class Sums:
    """Of all pages that were read."""

    workers: list[WorkerFigures] = field(default_factory=list)
    figures: dict[bytes, int] = field(default_factory=dict)  # by name
    waiting: Counter[bytes] = field(default_factory=Counter)
    running: Counter[bytes] = field(default_factory=Counter)
    skipped: Counter[bytes] = field(default_factory=Counter)  # and not yet told
    failures: list[Record] = field(default_factory=list)
    requests: int = 0
    slow: int = 0
    queued_at: list[float] = field(default_factory=list)  # of those that wait


def read(ledger: Ledger, *, whole: bool, listeners: list[int]) -> Snapshot:
    """The figures of this moment. ``listeners`` are file descriptors of sockets."""
    now, unix = time.monotonic(), time.time()
    for _ in range(TRIES):
        before = ledger.numbers[ledger.last + at.SEQUENCE]
        sums = _read_all(ledger, now, unix)
        # Odd, or other than before: the master was adding a worker's figures to its
        # own, and some may have been read twice, or not at all.
        if before % 2 == 0 and before == ledger.numbers[ledger.last + at.SEQUENCE]:
            break
        time.sleep(PAUSE)
    queue, limit = listen_queue(listeners)
    longest = _note_queue(ledger, queue)
    busy = _note_busy(ledger, sums.workers, queue)
    calls = _calls(sums)
    failures = sorted(sums.failures, reverse=True)[: at.MOST_FAILURES]
    return Snapshot(
        taken_at=unix,
        started_at=ledger.started_at,
        whole=whole,
        name=ledger.name,
        workers=tuple(sorted(sums.workers, key=lambda each: each.started_at)),
        calls=calls,
        failures=tuple(map(_failure, failures)),
        requests=sums.requests,
        slow=sums.slow,
        lost=sum(each.lost for each in calls),
        queue=queue,
        queue_longest=longest,
        queue_limit=limit,
        all_busy=busy,
        oldest_waiting=_since(now, sums.queued_at),
    )


def _read_all(ledger: Ledger, now: float, unix: float) -> Sums:
    sums = Sums()
    numbers = ledger.numbers
    for page in range(numbers[ledger.last + at.USED]):
        start = page * at.PAGE
        if pid := numbers[start + at.PID]:
            _add_worker(ledger, start, pid, sums, now, unix)
    for name, figures in figures_by_name(ledger.memory, ledger.last).items():
        sums.figures[name] = sums.figures.get(name, 0) + figures
    sums.failures += failures_of(ledger.memory, ledger.last)
    sums.requests += numbers[ledger.last + at.REQUESTS]
    sums.slow += numbers[ledger.last + at.SLOW]
    return sums


def _add_worker(
    ledger: Ledger, start: int, pid: int, sums: Sums, now: float, unix: float
) -> None:
    numbers = ledger.numbers
    figures, entries = _settled(ledger, start)
    for name, more in figures.items():
        sums.figures[name] = sums.figures.get(name, 0) + more
    waiting = [each for each in entries if each[0] == at.WAITING]
    running = [each for each in entries if each[0] in (at.RUNNING, at.RUNNING_AFTER)]
    running.sort(key=lambda each: each[2])
    sums.waiting.update(each[3] for each in waiting)
    sums.running.update(each[3] for each in running)
    sums.skipped.update(each[3] for each in entries if each[0] == at.CANCELLED)
    sums.queued_at += [each[1] for each in waiting]
    sums.failures += failures_of(ledger.memory, start)
    sums.requests += numbers[start + at.REQUESTS]
    sums.slow += numbers[start + at.SLOW]
    after = [each[2] for each in running if each[0] == at.RUNNING_AFTER]
    times = memoryview(ledger.memory).cast("d")
    state, since, requests = _state(times, start, after)
    sums.workers.append(
        WorkerFigures(
            pid=pid,
            started_at=unix - now + times[start + at.STARTED],
            state=state,
            since=unix - now + since,
            call=at.text_of(running[0][3]) if running else "",
            request_id=at.text_of(running[0][4]) if running else "",
            waiting=len(waiting) + numbers[start + at.UNNAMED],
            requests=numbers[start + at.REQUESTS],
            memory=resident(pid),
            minute=read_minute(
                ledger.memory, start + at.MINUTE, now,
                [(began, at.IN_REQUEST) for began in requests]
                + [(began, at.AFTER_RESPONSE) for began in after],
            ),
        )
    )  # fmt: skip


def _state(
    times: memoryview[float], start: int, after: list[float]
) -> tuple[str, float, list[float]]:
    """The worker's state, since when, and when each request began that it has."""
    lanes = [*times[start + at.LANES : start + at.MINUTE]]
    requests = [each for each in lanes if each > 0]
    if stopping := times[start + at.STOPPING]:
        return "stopping", stopping, requests
    if requests:
        return "request", min(requests), requests
    if len(after) == 1:  # its response ended earlier; that is known of the last one
        return "after response", times[start + at.AFTER], requests
    if after:
        return "after response", after[0], requests
    return "idle", max(times[start + at.IDLE], -min(lanes)), requests


def _settled(ledger: Ledger, start: int) -> tuple[dict[bytes, int], list[Entry]]:
    """A worker's figures and its entries, both of one moment."""
    numbers, memory = ledger.numbers, ledger.memory
    for _ in range(TRIES):
        before = numbers[start + at.SEQUENCE]
        figures = figures_by_name(memory, start)
        entries = [
            at.ENTRY.unpack_from(memory, entry * at.WORD)
            for entry, _ in used_entries(numbers, start)
        ]
        if before % 2 == 0 and before == numbers[start + at.SEQUENCE]:
            break
        time.sleep(PAUSE / 10)
    return figures, [each for each in entries if each[0] != at.FREE]


def _calls(sums: Sums) -> tuple[CallFigures, ...]:
    names = {*sums.figures, *sums.waiting, *sums.running, *sums.skipped}
    found = []
    for name in names:
        figures = sums.figures.get(name, 0)
        here = sums.waiting[name], sums.running[name], sums.skipped[name]
        if figures or any(here):
            found.append(_figures(name, figures, *here))
    return tuple(sorted(found))


def _figures(
    name: bytes, figures: int, waiting: int, running: int, skipped: int
) -> CallFigures:
    words = _FIGURES.unpack(figures.to_bytes(_FIGURES.size, "little"))
    return CallFigures(
        name=at.text_of(name),
        finished=words[at.FINISHED],
        failed=words[at.FAILED],
        skipped=words[at.SKIPPED] + skipped,
        lost=words[at.LOST],
        waiting=waiting,
        running=running,
        waited=_histogram(words, at.WAITED, at.WAITED_SUM),
        ran=_histogram(words, at.RAN, at.RAN_SUM),
    )


def _histogram(words: tuple[int, ...], buckets: int, total: int) -> Histogram:
    return Histogram(at.BOUNDS, words[buckets:total], words[total] / 1e9)


def _failure(record: Record) -> Failure:
    unix, pid, name, error, origin, request = record
    text = at.text_of
    return Failure(unix, text(name), text(error), text(origin), text(request), pid)


def _since(now: float, times: list[float]) -> float | None:
    return max(0.0, now - min(times)) if times else None


def _note_queue(ledger: Ledger, queue: int | None) -> int | None:
    if queue is None:
        return None
    place = ledger.last + at.QUEUE_LONGEST
    ledger.numbers[place] = longest = max(ledger.numbers[place], queue)
    return longest


def _note_busy(ledger: Ledger, workers: list[WorkerFigures], queue: int | None) -> int:
    """Count when all are busy, once for each time that they become so.

    This process is busy with the snapshot; so it counts only if a client waits, or, if
    nobody can tell that, if there are others.
    """
    numbers, last = ledger.numbers, ledger.last
    others = [each for each in workers if each.pid != os.getpid()]
    busy = all(each.state != "idle" for each in others)
    busy = busy and (bool(others) if queue is None else queue > 0)
    if busy and not numbers[last + at.BUSY_NOW]:
        numbers[last + at.ALL_BUSY] += 1
    numbers[last + at.BUSY_NOW] = busy
    return numbers[last + at.ALL_BUSY]


def resident(pid: int) -> int | None:
    """The bytes of memory that a process has; None where ``/proc`` does not tell."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None
