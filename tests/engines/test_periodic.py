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


def ticks(place):
    """How often the job of each time has run, by the time."""
    return Counter(
        datetime.strptime(words[1], "every-tick-%Y%m%dT%H%M%SZ")
        .replace(tzinfo=timezone.utc)
        .timestamp()
        for words in place.notes
        if words[0] == "tick"
    )


def ran_since(place, moment, number=1):
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


def pause(seconds):
    """Let times come that nobody sees."""
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.1)


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


@pytest.mark.ahead
@kinds("once")
def test_what_was_missed_while_none_ran_is_done_once(alone, kind):
    """Of the times that passed, one has a job."""
    place = alone(kind)
    place.workers = Workers(place, 1, TARGET)
    place.until(lambda: len(ticks(place)) >= 1, "a tick", LATE)
    place.until(lambda: place.jobs.recent(state="scheduled"), "the next one", LATE)
    place.workers.kill()
    killed = time.time()
    pause(4 * EVERY)
    started = time.time()
    place.workers = Workers(place, 1, TARGET)
    place.until(lambda: ran_since(place, time.time() - EVERY, 1), "one in time", LATE)
    missed = {due for due in ticks(place) if killed < due < started}
    assert len(missed) == 1, (killed, started, ticks(place))


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
