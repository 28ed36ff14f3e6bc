"""The clock of a machine is set forward, and back, by an hour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest

from ..engines.kinds import HOME, KINDS, PATIENCE, Own, Place
from ..engines.services import Postgres, Rabbit

HOUR = 3600
# The servers are on the same machine, but for Redis, whose allocator hangs in
# libfaketime, and RabbitMQ. Delays there do not hang on the server's clock.
# Not shown yet: with RQ, Procrastinate and Celery, a job did not run within a minute;
# whether they or libfaketime are the cause is not known.
SHOWN = ("sqlite", "dbos+postgresql")
EACH = [kind for name, kind in KINDS.items() if name in SHOWN]
ENQUEUE = """
import json, sys
from tests.engines.app import jobs
name, payload, delay = json.loads(sys.argv[1])
print(jobs.enqueue(name, payload, delay=delay))
"""

# libfaketime (0.9.10) does not know the system call of Python 3.11's.
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


class Clock:
    """The clock of the processes that are started in this environment."""

    def __init__(self, path, monkeypatch):
        found = glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        if not found:
            pytest.skip("faketime is not installed; see make outer")
        self.path = path
        self.path.touch()
        self.set(0)
        self.path.chmod(0o644)
        monkeypatch.setenv("LD_PRELOAD", found[0])
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(path))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        monkeypatch.setenv("FAKETIME_DONT_RESET", "1")

    def set(self, seconds):
        """Let it differ from the right one by that."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        os.replace(new, self.path)


@pytest.fixture
def place(kind, monkeypatch):
    # Where PostgreSQL's user can read it, too.
    path = f"/tmp/wsgi_defer_clock_{os.getpid()}_{kind}"
    with monkeypatch.context() as patch:
        clock = Clock(Path(path), patch)
        if kind.server is not Postgres:
            patch.delenv("LD_PRELOAD")
        own = kind.server and Own(kind.server)
        try:
            patch.undo()
            place = Place(kind, own)
            place.clock = Clock(clock.path, patch)
            (place.root / "sitecustomize.py").write_text(SLEEP)
            place.work(2)
            patch.undo()
            yield place
            place.close()
        finally:
            if own:
                own.running.close()
            clock.path.unlink()


def enqueue(place, name, payload=None, delay=0):
    """Enqueue it by a process that has that clock."""
    words = [sys.executable, "-c", ENQUEUE, json.dumps([name, payload, delay])]
    done = subprocess.run(words, env=place.workers.env, cwd=HOME, check=True,
                          capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    return done.stdout.strip()


def ran(place, *job_ids):
    for job_id in job_ids:
        place.until(lambda j=job_id: place.times("echo", j), f"{job_id} ran")


@pytest.mark.parametrize("kind", EACH, ids=str)
def test_jobs_run_whatever_the_clock_says(place):
    """Those that wait, run, or are delayed. None is lost."""
    gate = place.root / "gate"
    before = enqueue(place, "echo", delay=HOUR / 2)
    running = enqueue(place, "held", str(gate))
    place.until(lambda: place.times("start", running), "its start")
    place.clock.set(HOUR)
    if place.kind.server is not Rabbit:  # whose delays do not hang on the clock
        ran(place, before)
    ran(place, enqueue(place, "echo"), enqueue(place, "echo", delay=2))
    later = enqueue(place, "echo", delay=20)
    place.clock.set(0)
    ran(place, enqueue(place, "echo"), enqueue(place, "echo", delay=2))
    place.clock.set(-HOUR)
    ran(place, enqueue(place, "echo"), enqueue(place, "echo", delay=2))
    place.clock.set(2 * HOUR)
    ran(place, later)
    gate.touch()
    place.until(lambda: place.times("end", running), "its end")
    print(place.kind, "starts", len(place.times("start", running)))
    assert place.workers.supervisor.poll() is None
