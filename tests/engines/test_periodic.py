"""Jobs that are due again and again, on every engine that can."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest

from .kinds import KINDS, PATIENCE, Workers, kinds
from .periodic import EVERY

TARGET = "tests.engines.periodic:jobs"
LATE = PATIENCE + 90  # seconds; RQ moves no delayed job for 75 after a kill
TRIES = 5


def due_of(job_id):
    """The time that a job is for."""
    due = datetime.strptime(job_id, "every-tick-%Y%m%dT%H%M%SZ")
    return due.replace(tzinfo=timezone.utc).timestamp()


def ticks(place):
    """How often the job of each time has run, by the time."""
    return Counter(due_of(words[1]) for words in place.notes if words[0] == "tick")


def ran_since(place, moment, number):
    """Whether as many jobs ran that were due after that moment."""
    return sum(due > moment for due in ticks(place)) >= number


def left_out(place, every):
    """The times without a job that ran, and what became of these, for a failure."""
    ids = [f"every-tick-{datetime.fromtimestamp(due, timezone.utc):%Y%m%dT%H%M%SZ}"
           for due in every if due not in ticks(place)]  # fmt: skip
    return {job_id: place.jobs.status(job_id) for job_id in ids}


@contextmanager
def command(place):
    """A worker command, which is killed with its child."""
    workers = Workers(place, 1, TARGET)
    try:
        yield workers
    finally:
        pid = workers.supervisor.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                pass
        workers.supervisor.wait(PATIENCE)


@pytest.mark.ahead
@kinds("once")
def test_each_time_has_one_job_whoever_is_killed(alone, kind):
    """Two commands run, and each is killed in turn while the other goes on: no time is
    left out, and at most the job that was killed runs twice."""
    place = alone(kind)
    place.workers = Workers(place, 1, TARGET)  # which place.close() kills
    place.until(lambda: len(ticks(place)) >= 1, "a tick", LATE)
    for _ in range(2):
        with command(place):
            now = time.time()
            place.until(lambda now=now: ran_since(place, now, 2), "two more", LATE)
    with command(place):
        now = time.time()
        place.until(lambda now=now: ran_since(place, now, 2), "two more", LATE)
        os.kill(place.workers.supervisor.pid, signal.SIGKILL)
        place.workers.supervisor.wait(PATIENCE)
        now = time.time()
        place.until(lambda now=now: ran_since(place, now, 3), "three more", LATE)
        found = ticks(place)
        first, last = min(found), max(found)
        every = [first + EVERY * n for n in range(round((last - first) / EVERY) + 1)]
        place.until(
            lambda: {*every} <= {*ticks(place)}, lambda: left_out(place, every), LATE
        )
    found = ticks(place)
    assert max(found.values()) <= 2, found
    assert sum(found.values()) - len(found) <= 3, found


def waiting_alone(place):
    """The one job that is not over, if it has not begun."""
    rest = [
        job
        for state in ("scheduled", "queued", "running")
        for job in place.jobs.recent(state=state)
    ]
    return rest[0] if len(rest) == 1 and rest[0].started_at is None else None


def killed_while_one_waits(alone, kind):
    """A place whose workers were killed while the next job waited; and that job's time.

    If a job began at the moment of the kill, this tries again.
    """
    for _ in range(TRIES):
        place = alone(kind)
        place.workers = Workers(place, 1, TARGET)
        place.until(
            lambda place=place: ticks(place) and waiting_alone(place), "one waits", LATE
        )
        place.workers.kill()
        if job := waiting_alone(place):
            return place, due_of(job.id)
    raise AssertionError(f"killed {TRIES} times, and each time a job had begun")


@pytest.mark.ahead
@kinds("once")
def test_what_was_missed_while_none_ran_is_done_once(alone, kind):
    """Of the times that passed, the first has a job: the one that waited."""
    place, waiting = killed_while_one_waits(alone, kind)
    while time.time() < waiting + 4 * EVERY:
        time.sleep(0.1)
    started = time.time()
    place.workers = Workers(place, 1, TARGET)
    place.until(
        lambda: waiting in ticks(place) and ran_since(place, started, 2),
        "the one that waited, and two in time", LATE,
    )  # fmt: skip
    missed = [due for due in sorted(ticks(place)) if waiting <= due <= started]
    assert missed == [waiting], (started, ticks(place))


@kinds("once")
def test_without_a_schedule_nothing_is_enqueued(alone, kind):
    """The worker leaves it to others."""
    place = alone(kind)
    place.workers = Workers(place, 1, TARGET, "--no-schedule")
    assert place.wait(place.jobs.enqueue("echo", delay=EVERY)).state == "done"
    place.workers.terminate()
    assert place.workers.supervisor.wait(PATIENCE) == 0
    assert ticks(place) == {}
    assert [job.name for job in place.jobs.recent()] == ["echo"]
    assert "schedule left to others" in (place.root / "output").read_text()


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if not kind.can("once")], ids=str
)
def test_celery_refuses_a_schedule(alone, kind):
    """It would enqueue a job for each command. It says what to do."""
    place = alone(kind)
    place.workers = Workers(place, 1, TARGET)
    assert place.workers.supervisor.wait(PATIENCE) == 1
    [line] = (place.root / "output").read_text().splitlines()
    assert "Celery on RabbitMQ cannot run jobs by a schedule" in line
    assert "--no-schedule" in line
    place.workers = Workers(place, 1, TARGET, "--no-schedule")
    job_id = place.jobs.enqueue("echo", 1)
    place.until(lambda: place.times("echo", job_id), "it ran")
