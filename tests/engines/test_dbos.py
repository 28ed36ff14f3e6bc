"""DBOS's workers: what happens to their jobs, and what they refuse."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from wsgi_defer.jobs import JobsUnavailable
from wsgi_defer.jobs.engines.dbos.database import Busy

from ..helpers.waiting import at_best
from .kinds import KINDS, PATIENCE, Own, Place, Workers
from .services import frozen

pytestmark = pytest.mark.ahead
dbos = pytest.mark.parametrize(
    "kind",
    [kind for kind in KINDS.values() if kind.package == "dbos"],
    ids=str,
)

# A worker that dies right after it has enqueued the second attempt, once.
CRASHING = """
import os, signal
from pathlib import Path
from tests.engines.app import jobs
from wsgi_defer.jobs.engines.dbos import client, worker

worker.MOST_CRASHES = 2
put = client.Dbos.put

def put_and_die(self, attempt, place, delay):
    put(self, attempt, place, delay)
    mark = Path(os.environ["JOBS_NOTES"] + ".died")
    if place == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

client.Dbos.put = put_and_die
"""


# One that looks for stranded jobs often, and cannot store the second attempt while
# there is a file.
HASTY = """
import os
from pathlib import Path
from tests.engines.app import jobs
from wsgi_defer.jobs import JobsUnavailable
from wsgi_defer.jobs.engines.dbos import bells, client, worker

worker.RESCUE = 0.5
worker.STORING = 1.0
stop = bells.Bell.stop

def stop_and_tell(self):
    stop(self)
    Path(os.environ["JOBS_NOTES"] + ".stopping").touch()

bells.Bell.stop = stop_and_tell
put = client.Dbos.put

def put_if_there_is_room(self, attempt, place, delay):
    if Path(os.environ["JOBS_NOTES"] + ".full").exists():
        raise JobsUnavailable(self.title, "storing a job")
    put(self, attempt, place, delay)

client.Dbos.put = put_if_there_is_room
"""


# One that looks for jobs only if it is woken, by what is left of ways to do so.
ASLEEP = """
import os
from tests.engines.app import jobs
from wsgi_defer.jobs.engines.dbos import bells, threads

bells.LOOK = threads.SWEEP = 1000.0
bells.Bell.__init__.__defaults__ = (None, 1000.0)
if "{way}" != "log":
    bells.GLANCE = 1000.0
if "{way}" != "bell":
    bells.Bells.make = lambda self, number: None
"""

# One that notes each query of its process.
ASKING = """
import sqlalchemy as sa
from tests.engines.app import jobs, note

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *rest):
    note("query", statement.split()[0])
"""


@contextmanager
def crashing(place, code=CRASHING, processes=1):
    """Workers of an app above, which ``place.close()`` does not end."""
    (place.root / "crashing.py").write_text(code)
    workers = Workers(place, processes, "crashing:jobs")
    try:
        yield workers
    finally:
        workers.kill()


def children(pid):
    """The ids of its child processes."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@dbos
def test_fewer_workers_take_the_jobs_of_all(alone, kind):
    """Four are killed, and one starts: it runs what the four had started."""
    place = alone(kind)
    place.work(processes=4)
    gate = place.root / "gate"
    ids = [place.jobs.enqueue("held", str(gate)) for _ in range(4)]
    for job_id in ids:
        place.wait(job_id, "running")
        place.until(lambda i=job_id: place.times("start", i), "it starts")
    place.workers.kill()
    gate.touch()
    place.work(processes=1)
    for job_id in ids:
        assert place.wait(job_id).state == "done"
        assert len(place.times("start", job_id)) == 2
        assert len(place.times("end", job_id)) == 1


@dbos
def test_a_worker_takes_over_from_one_that_does_not_come_back(alone, kind):
    """Even if it was there before: it looks for such jobs from time to time."""
    place = alone(kind)
    place.work(processes=1)
    place.wait(place.jobs.enqueue("echo"))
    first = place.workers
    second = Workers(place, 1)  # another command
    gate = place.root / "gate"  # so that the first cannot run both
    long = [place.jobs.enqueue("held", str(gate)) for _ in range(2)]
    for job_id in long:
        place.wait(job_id, "running")
        place.until(lambda i=job_id: place.times("start", i), "it starts")
    supervisor = second.supervisor
    # The supervisor first: it would start another.
    for pid in [supervisor.pid, *children(supervisor.pid)]:
        os.kill(pid, signal.SIGKILL)
    supervisor.wait(PATIENCE)
    gate.touch()
    start = time.monotonic()
    for job_id in long:
        assert place.wait(job_id).state == "done"
    assert time.monotonic() - start < 45
    starts = [len(place.times("start", job_id)) for job_id in long]
    assert sorted(starts) == [1, 2]
    first.terminate()
    assert first.supervisor.wait(PATIENCE) == 0


@dbos
def test_the_next_attempt_is_enqueued_once(alone, kind):
    """A worker that dies between the two writes runs nothing again."""
    place = alone(kind)
    with crashing(place) as workers:
        job_id = place.jobs.enqueue("flaky", 1)
        job = place.wait(job_id)
        assert (job.state, job.attempts, job.result) == ("done", 2, 2), place
        assert (place.root / "notes.died").exists()
        place.wait(place.jobs.enqueue("echo"))
        assert [words[2] for words in place.notes if words[0] == "flaky"] == ["1", "2"]
        workers.terminate()
        assert workers.supervisor.wait(PATIENCE) == 0


@dbos
def test_a_job_that_kills_its_worker_fails(alone, kind):
    """After so many deaths, with an error that says so. A retry by hand may run."""
    place = alone(kind)
    with crashing(place):
        job_id = place.jobs.enqueue("deadly", 3)
        job = place.wait(job_id)
        assert (job.state, job.attempts) == ("failed", 1), place
        assert job.error.startswith("its worker died, or was killed, 11 times")
        assert [job.id for job in place.jobs.failed()] == [job_id]
        assert len(place.times("deadly", job_id)) == 3
        place.wait(place.jobs.enqueue("echo"))
        place.jobs.retry(job_id)
        assert place.wait(job_id).state == "done"
        assert place.jobs.failed() == []


@contextmanager
def no_outcomes(place):
    """The outcomes of jobs cannot be written; all else works."""
    schema = "" if place.kind.server is None else "dbos."
    _, attempts = place.jobs.engine._open()

    def rename(old, new):
        def renamed():
            with (
                suppress(Busy, sa.exc.OperationalError),
                attempts.engine.begin() as connection,
            ):
                connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))
                return True

        place.until(renamed, f"{new} instead of {old}")  # the worker writes, too

    rename(f"{schema}workflow_output", "away")
    try:
        yield
    finally:
        rename(f"{schema}away", "workflow_output")


@dbos
def test_a_job_whose_outcome_cannot_be_stored_is_run_again(alone, kind):
    """DBOS gives up, but no worker dies. The job that runs meanwhile keeps running."""
    place = alone(kind)
    with crashing(place, HASTY) as workers:
        place.wait(place.jobs.enqueue("echo"))
        with no_outcomes(place):
            lost = place.jobs.enqueue("nap", 0)
            place.until(lambda: place.times("end", lost), "it ends")
            long = place.jobs.enqueue("held", str(place.root / "gate"))
            place.until(lambda: place.times("start", long), "the next starts")
        time.sleep(2)  # by now, the first is known to be lost
        (place.root / "gate").touch()
        for job_id in (long, lost):
            assert place.wait(job_id).state == "done"
        assert len(place.times("end", lost)) == 2
        assert len(place.times("start", long)) == 1
        workers.terminate()
        assert workers.supervisor.wait(PATIENCE) == 0


@dbos
def test_a_worker_that_cannot_store_the_next_attempt_stops(alone, kind):
    """It stops in time when it is told to, and another runs the attempt again."""
    place = alone(kind)
    with crashing(place, HASTY) as workers:
        (place.root / "notes.full").touch()
        job_id = place.jobs.enqueue("flaky", 1)
        output = place.root / "output"
        complaint = "storing a job failed"
        place.until(lambda: complaint in output.read_text(), "a complaint")
        workers.terminate()
        assert workers.supervisor.wait(PATIENCE) == 0
    assert place.jobs.status(job_id).state == "running"
    place.work(processes=1)
    job = place.wait(job_id)
    assert (job.state, job.attempts) == ("done", 2)
    ran = [words[2] for words in place.notes if words[:2] == ["flaky", job_id]]
    assert ran == ["1", "1", "2"]


class Evil:
    """Creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@dbos
def test_a_worker_unpickles_nothing(alone, kind):
    """Write access to the database must not be enough to run code in the worker."""
    place = alone(kind)
    job_id = place.jobs.enqueue("echo")
    text = base64.b64encode(pickle.dumps(Evil(place.root / "evil"))).decode()
    _, attempts = place.jobs.engine._open()
    schema = "" if kind.server is None else "dbos."
    with attempts.engine.begin() as connection:
        connection.execute(sa.text(
            f"UPDATE {schema}workflow_status SET serialization = 'py_pickle'"
        ))  # fmt: skip
        connection.execute(
            sa.text(f"UPDATE {schema}workflow_input SET inputs = :text"), {"text": text}
        )
    place.work(processes=1)
    job = place.wait(job_id)
    assert job.state == "failed"
    assert not (place.root / "evil").exists()
    place.wait(place.jobs.enqueue("echo"))


@dbos
def test_a_worker_leaves_the_rows_of_others_alone(alone, kind):
    """Those of another release, and of DBOS's tools. It neither ends nor takes them."""
    place = alone(kind)
    engine = place.jobs.engine
    job_id = place.jobs.enqueue("echo")
    client, _ = engine._open()
    for number in range(2):
        client.enqueue({"workflow_name": "wsgi_defer.of_the_next_release",
                        "workflow_id": f"{place.queue}:next-{number}:1",
                        "queue_name": place.queue, "app_version": engine.owner},
                       1)  # fmt: skip
    client.fork_workflow(engine.serial.id(job_id, 1), 1,
                         application_version=engine.owner)  # fmt: skip
    with crashing(place, HASTY) as workers:
        assert place.wait(job_id).state == "done"
        place.until(lambda: workers_of(workers), "a worker")
        before = workers_of(workers)
        output = place.root / "output"
        told = "3 rows in DBOS's tables are not jobs"
        place.until(lambda: told in output.read_text(), "the count")
        time.sleep(2)  # three looks for stranded jobs
        assert place.wait(place.jobs.enqueue("echo")).state == "done"
        assert workers_of(workers) == before
        assert output.read_text().count(told) == 1
        assert engine.foreign() == 3
        assert engine.running("slot-0") == set()
        workers.terminate()
        assert workers.supervisor.wait(PATIENCE) == 0
    assert len(place.times("echo", job_id)) == 1


embedded = pytest.mark.parametrize("kind", [KINDS["sqlite"]], ids=str)


@embedded
@pytest.mark.parametrize("way", ["bell", "log"])
def test_a_worker_is_woken(alone, kind, way):
    """By whoever stores a job; or, if that is another program, by the file's log."""
    place = alone(kind)
    with crashing(place, ASLEEP.replace("{way}", way), 2):
        for payload in range(5):
            job = place.wait(place.jobs.enqueue("echo", payload))
            assert job.state == "done"
            time.sleep(0.1)  # it is asleep again, or will be


@embedded
def test_a_delayed_job_is_woken_for(alone, kind):
    """It starts when it is due, whatever else waits longer. Nobody looks by itself."""
    place = alone(kind)
    with crashing(place, ASLEEP.replace("{way}", "bell"), 2):
        place.jobs.enqueue("echo", delay=1000)
        place.wait(place.jobs.enqueue("echo"))
        for _ in range(3):
            due = time.time() + 0.5
            job_id = place.jobs.enqueue("echo", delay=0.5)
            assert place.wait(job_id).state == "done"
            assert place.times("echo", job_id)[0] > due - 0.01


@embedded
def test_an_idle_worker_hardly_asks(alone, kind):
    """At most two queries a second."""
    place = alone(kind)
    with crashing(place, ASKING):
        place.wait(place.jobs.enqueue("echo"))

        def queries():
            time.sleep(1)
            before = len(place.notes)
            time.sleep(5)
            return (len(place.notes) - before) / 5

        at_best(queries, 2.01)


@embedded
def test_a_worker_runs_one_job_at_a_time(alone, kind):
    """Even when many wait, and each ends at once."""
    place = alone(kind)
    ids = [place.jobs.enqueue("nap", 0.01) for _ in range(30)]
    place.work(processes=1)
    place.until(lambda: all(place.times("end", i) for i in ids), "all end")
    events = [words[0] for words in place.notes]
    assert events == ["start", "end"] * 30


@embedded
def test_a_worker_that_ends_shows_signs_of_life(alone, kind):
    """Others know that it still holds its slot, however long its job takes."""
    place = alone(kind)
    gate = place.root / "gate"
    with crashing(place, HASTY) as workers:
        job_id = place.jobs.enqueue("held", str(gate))
        place.until(lambda: place.times("start", job_id), "it starts")
        workers.terminate()
        place.until((place.root / "notes.stopping").exists, "it is told")
        slot = place.root / f"jobs.db.{place.queue}.slot-0"
        for _ in range(2):
            seen = slot.stat().st_mtime_ns
            place.until(lambda s=seen: slot.stat().st_mtime_ns > s, "a sign of life")
        waiting = place.jobs.enqueue("echo")
        gate.touch()
        assert workers.supervisor.wait(PATIENCE) == 0
    assert place.jobs.status(job_id).state == "done"
    assert place.jobs.status(waiting).state == "queued"


def workers_of(workers):
    """The ids of the processes that a supervisor has started."""
    return children(workers.supervisor.pid)


@dbos
def test_a_worker_listens_to_nobody(alone, kind):
    """No admin server, no telemetry."""
    place = alone(kind)
    workers = place.work(processes=1)
    place.wait(place.jobs.enqueue("echo"))
    listening = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in ("0A", "07"):
                listening.add(f"socket:[{fields[9]}]")
    for pid in workers.family():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                assert os.readlink(fd) not in listening


@dbos
def test_one_clears_at_a_time(alone, kind):
    """Another one could delete a new job, whose id the first has just set free."""
    from wsgi_defer.jobs.engines.dbos.client import CLEARING_SLOT

    place = alone(kind)
    place.work(1)
    place.wait(place.jobs.enqueue("echo"), "done")
    slots = place.jobs.engine.slots()
    assert slots.take(CLEARING_SLOT)
    assert place.jobs.clear(0) == 0
    slots.close()
    assert place.jobs.clear(0) == 1


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.name == "dbos+postgresql"], ids=str
)
def test_a_worker_that_loses_its_lock_takes_it_again(alone, kind):
    """It does so before others, which may see earlier that it is free."""
    place = alone(kind)
    place.work(processes=2)
    place.wait(place.jobs.enqueue("echo"))
    job_id = place.jobs.enqueue("nap", 20)
    place.wait(job_id, "running")
    _, attempts = place.jobs.engine._open()
    supervisor = place.workers.supervisor
    before = children(supervisor.pid)
    with attempts.engine.begin() as connection:
        connection.execute(sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND objsubid = 2 AND pid IN (SELECT pid FROM pg_stat_activity WHERE"
            " datname = current_database())"
        ))  # fmt: skip
    assert place.wait(job_id).state == "done"
    assert before == children(supervisor.pid)
    assert len(place.times("start", job_id)) == 1
    place.wait(place.jobs.enqueue("echo"))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.name == "dbos+postgresql"], ids=str
)
def test_a_worker_does_not_log_the_payload(alone, kind):
    """Even if it cannot store the next attempt, and says so repeatedly."""
    place = alone(kind)
    secret = 4711_4711_4711
    job_id = place.jobs.enqueue("flaky", secret)
    output = place.root / "output"
    _, attempts = place.jobs.engine._open()
    with attempts.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE dbos.workflow_input IN SHARE MODE"))
        place.work(processes=1)

        def complains():
            connection.execute(sa.text("SELECT pg_stat_clear_snapshot()"))
            connection.execute(sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                " datname = current_database() AND wait_event_type = 'Lock'"
            ))  # fmt: skip
            return "; tried again" in output.read_text()

        place.until(complains, "a complaint")
    place.until(lambda: place.jobs.status(job_id).attempts > 2, "another attempt")
    text = output.read_text()
    assert "INSERT INTO dbos.workflow_input" in text
    assert str(secret) not in text


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.name == "dbos+postgresql"], ids=str
)
def test_a_server_that_hangs_is_an_error(kind):
    """Within 2 seconds, on a connection that was fine. Afterwards all works again."""
    own = Own(kind.server)
    place = Place(kind, own)
    root = own.running.root
    server = int((root / "data" / "postmaster.pid").read_text().split()[0])
    numbers = itertools.count()

    def hangs_for():
        number = next(numbers)
        place.jobs.enqueue("echo", job_id=f"before-{number}")
        family = [server, *children(server)]
        with frozen(*family):
            start = time.monotonic()
            with pytest.raises(JobsUnavailable, match="storing a job"):
                place.jobs.enqueue("echo", job_id=f"hanging-{number}")
            took = time.monotonic() - start
        assert place.jobs.status(f"before-{number}").state == "queued"
        place.jobs.enqueue("echo", job_id=f"after-{number}")
        assert place.jobs.status(f"after-{number}").state == "queued"
        return took

    try:
        at_best(hangs_for, 2.5)
    finally:
        place.close()
        own.running.close()
