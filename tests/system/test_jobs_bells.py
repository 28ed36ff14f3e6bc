"""How DBOS's workers are woken: who may ring, and what they do if nobody does."""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress

import pytest

pytest.importorskip("dbos", reason="dbos is not installed")

from wsgi_defer.jobs import JobsUnavailable
from wsgi_defer.jobs.engines.dbos.bells import LATER, Bell, Bells
from wsgi_defer.jobs.engines.dbos.slots import FileSlots
from wsgi_defer.jobs.engines.dbos.threads import Executor, Sweeps

from ..helpers.waiting import PATIENCE, until

FOREVER = 1000.0


@pytest.fixture
def bells(tmp_path):
    """The bells of a file of the mode 0660."""
    (tmp_path / "jobs.db").touch()
    (tmp_path / "jobs.db").chmod(0o660)
    return Bells(f"{tmp_path}/bell", f"{tmp_path}/jobs.db")


class Waiting:
    """A thread that waits at a bell, and counts how often it may look."""

    def __init__(self, bell):
        self.bell = bell
        self.looks = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        until(lambda: self.looks, "the first look, at what was there before")

    def _run(self):
        while not self.bell.stopped:
            self.bell.wait()
            self.looks += 1

    def close(self):
        self.bell.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.bell.close()


@pytest.fixture
def waiting():
    """Makes bells that somebody waits at."""
    made = []

    def make(*args, **kwargs):
        made.append(Waiting(Bell(*args, look=FOREVER, **kwargs)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_ring_wakes_all(bells, waiting):
    """Also those of high slots, while lower ones have no worker."""
    some = [waiting(bells.make(number)) for number in (3, 1)]
    bells.ring()
    until(lambda: [one.looks for one in some] == [2, 2], "both look")


@pytest.mark.parametrize("number", [0, 2])
def test_a_link_in_the_place_of_a_fifo_is_not_followed(bells, tmp_path, number):
    """Who may write to the directory cannot have modes of other files changed."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    for name in ("bell-0", "bell-2"):
        (tmp_path / name).symlink_to(secret)
    assert bells.make(number) is None
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_link_in_the_place_of_a_slot_is_not_followed(tmp_path):
    """As for FIFOs; the worker does not start then."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    (tmp_path / "jobs.db").touch(0o666)
    (tmp_path / "slot-0").symlink_to(secret)
    with pytest.raises(OSError, match="slot-0"):
        FileSlots(f"{tmp_path}/slot", f"{tmp_path}/jobs.db").take(0)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_ring_without_workers_is_lost(bells, tmp_path):
    """It neither waits nor fails: before there are FIFOs, and when one is full."""
    bells.ring()
    fd = bells.make(0)
    with suppress(BlockingIOError):
        while os.write(fd, b"x" * 4096):
            pass
    bells.ring()
    os.close(fd)
    bells.ring()


def test_whoever_can_write_jobs_can_ring(bells, tmp_path):
    """The FIFO has the mode of the database."""
    os.close(bells.make(1))
    assert stat.S_IMODE((tmp_path / "bell-1").stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / "bell-0").stat().st_mode) == 0o600


def test_only_fifos_are_rung(bells, tmp_path):
    """What else has that name is neither written to nor waited for."""
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "bell-0").symlink_to("mine")
    (tmp_path / "bell-1").write_text("precious, too")
    os.close(bells.make(2))
    assert bells.make(0) is None
    assert bells.make(1) is None
    bells.ring()
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "bell-1").read_text() == "precious, too"


def test_a_place_without_fifos(bells, monkeypatch):
    """As some shared folders are: the worker starts all the same."""

    def refuse(path, mode):
        raise PermissionError(path)

    monkeypatch.setattr(os, "mkfifo", refuse)
    assert bells.make(0) is None


def test_a_busy_worker_is_not_woken(bells, waiting):
    """It looks when it has room again, and once for all rings."""
    one = waiting(bells.make(0))
    room = threading.Event()
    one.bell.has_room = room.is_set
    later = []
    one.bell.later = lambda: later.append(1)
    bells.ring()
    bells.ring()
    bells.ring(LATER)
    until(lambda: later, "the ring was heard")
    assert one.looks == 1
    room.set()
    one.bell.ring()
    until(lambda: one.looks == 2, "it looks")
    bells.ring(LATER)
    until(lambda: later == [1, 1], "it hears on")
    assert one.looks == 2


def test_a_writer_that_does_not_ring_is_seen(waiting, tmp_path):
    """By the file that it changes, or makes."""
    log = tmp_path / "jobs.db-wal"
    one = waiting(None, str(log))
    log.write_bytes(b"a job")
    until(lambda: one.looks > 1, "it looks")
    looks = one.looks
    log.write_bytes(b"another job")
    until(lambda: one.looks > looks, "it looks again")


def test_a_change_is_looked_at_twice(waiting, tmp_path):
    """It may have been seen before the job could be."""
    log = tmp_path / "jobs.db-wal"
    log.touch()
    one = waiting(None, str(log))
    until(lambda: one.looks == 2, "the second look at what was there")
    with log.open("ab") as file:  # one change: to make the file empty would be another
        file.write(b"a job")
    until(lambda: one.looks == 4, "two looks")


def test_a_worker_looks_from_time_to_time():
    """Even if nothing tells it to."""
    bell = Bell(None, look=0.05)
    bell.wait()
    start = time.monotonic()
    bell.wait()
    assert time.monotonic() - start >= 0.05
    bell.close()


def test_the_executor_counts_from_the_call():
    """Not from the start of the thread: DBOS would claim another job meanwhile."""
    told = []
    executor = Executor(told.append)
    gate = threading.Event()
    executor.submit(gate.wait)
    assert told == [1]
    gate.set()
    until(lambda: told == [1, -1], "it has ended")
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(gate.wait)
    assert told == [1, -1, 1, -1]


class Times:
    """When the next job is due, for ``Sweeps``, as a test says."""

    def __init__(self, due=None):
        self.due = due
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if isinstance(self.due, Exception):
            raise self.due
        return self.due


def sweep(sweeps, timeout=1.0):
    """Let a thread wait for the next sweep; return what tells when it has."""
    thread = threading.Thread(target=sweeps.wait, args=(timeout,), daemon=True)
    thread.start()
    return thread


@pytest.fixture
def times(monkeypatch):
    """No sweep happens without a reason."""
    monkeypatch.setattr("wsgi_defer.jobs.engines.dbos.threads.SWEEP", FOREVER)
    return Times()


def test_the_next_sweep_is_when_a_job_is_due(times):
    """Neither before nor much later. Then this process looks for it."""
    bell = Bell(None, look=FOREVER)
    bell.wait()
    times.due = time.time() + 0.3
    sweeps = Sweeps(bell, times)
    assert not sweeps.wait(1.0)
    assert time.time() >= times.due
    times.due = None
    thread = sweep(sweeps)
    bell.wait()
    sweeps.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert sweeps.wait(1.0)
    assert sweeps.wait(0)
    bell.close()


def test_a_job_that_is_due_sooner(times):
    """It is enqueued while the thread waits for a later one, and rings."""
    bell = Bell(None, look=FOREVER)
    sweeps = Sweeps(bell, times)
    times.due = time.time() + FOREVER
    thread = sweep(sweeps)
    until(lambda: times.asked == 1, "it waits")
    times.due = time.time()
    bell.later()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    bell.close()


def test_a_sweep_that_fails_is_not_repeated_at_once(times):
    """As the disk may be full for hours. It is repeated, though."""
    bell = Bell(None, look=FOREVER)
    times.due = time.time()
    sweeps = Sweeps(bell, times)
    sweeps.wait(0.2)
    start = time.monotonic()
    sweeps.wait(0.2)
    assert time.monotonic() - start >= 0.2
    bell.close()


def test_a_database_that_is_away(times, monkeypatch):
    """The next sweep comes as if no job were due."""
    monkeypatch.setattr("wsgi_defer.jobs.engines.dbos.threads.SWEEP", 0.1)
    bell = Bell(None, look=FOREVER)
    times.due = JobsUnavailable("DBOS", "looking")
    assert not Sweeps(bell, times).wait(1.0)
    bell.close()
