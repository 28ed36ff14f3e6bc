"""The file of DBOS's jobs: who can read it, what is refused, and when it is gone."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("dbos", reason="dbos is not installed")

from wsgi_defer.jobs import Jobs, JobsUnavailable, _notices
from wsgi_defer.jobs.engines.dbos import sqlite_file
from wsgi_defer.jobs.engines.dbos.client import CLEARING_SLOT
from wsgi_defer.jobs.engines.dbos.tables import FIRST
from wsgi_defer.jobs.engines.dbos.worker import Worker

from .test_jobs_dbos import with_sqlite


def mode(path):
    """The permissions of that file."""
    return stat.S_IMODE(path.stat().st_mode)


@with_sqlite
@pytest.mark.parametrize("before", [None, 0o660])
def test_the_files_are_private(jobs, tmp_path, before):
    """Payloads hold secrets, and who can open a slot can lock it. A file that is there
    keeps its mode, and all others get it."""
    path = tmp_path / "jobs.db"
    if before is not None:
        path.touch()
        path.chmod(before)
    umask = os.umask(0o022)
    try:
        jobs.enqueue("mail.welcome", {"token": 1})
        slots = jobs.engine.slots()
        slots.take(0)
        modes = {file.name: mode(file) for file in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    slots.close()
    names = ["jobs.db", "jobs.db-shm", "jobs.db-wal", "jobs.db.wsgi_defer.slot-0"]
    assert modes == dict.fromkeys(names, before or 0o600)


@with_sqlite
def test_a_slot_gets_the_mode_of_the_database(jobs, tmp_path):
    """Also one of an older release, which everybody could lock."""
    jobs.enqueue("mail.welcome")
    slot = tmp_path / "jobs.db.wsgi_defer.slot-0"
    slot.touch()
    slot.chmod(0o644)
    with closing(jobs.engine.slots()) as slots:
        assert slots.take(0)
        assert mode(slot) == 0o600


def hold_lock(path):
    """The path, opened and locked, as any user does who can read it."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


@with_sqlite
def test_a_lock_that_keeps_clear_from_its_work_is_logged(
    jobs, tmp_path, caplog, monkeypatch
):
    """Once a minute, with the name of the file."""
    jobs.enqueue("mail.welcome")
    path = tmp_path / f"jobs.db.wsgi_defer.slot-{CLEARING_SLOT}"
    with hold_lock(path):
        assert [jobs.clear(0), jobs.clear(0)] == [0, 0]
        assert [str(path) in message for message in caplog.messages] == [True]
        monkeypatch.setattr(_notices, "MINUTE", 0)
        jobs.clear(0)
        assert len(caplog.messages) == 2


@with_sqlite
def test_a_slot_that_a_stranger_holds_is_logged(jobs, tmp_path, caplog, monkeypatch):
    """It holds up the rescue of jobs. A worker that lives shows signs of life."""
    jobs.enqueue("mail.welcome")
    monkeypatch.setattr(jobs.engine, "busy_slots", lambda: {"slot-7", "slot-8"})
    worker = Worker(jobs.engine, 0, 1)
    worker._slots, worker._slot = jobs.engine.slots(), 0
    other = jobs.engine.slots()  # a worker
    assert other.take(8)
    path = tmp_path / "jobs.db.wsgi_defer.slot"
    with hold_lock(Path(f"{path}-7")):
        for number in (7, 8):
            os.utime(f"{path}-{number}", (0, 0))
        other.check()
        worker._rescue()
        worker._rescue()
    assert [f"{path}-7 is locked" in message for message in caplog.messages] == [True]
    worker._slots.close()
    other.close()


@with_sqlite
@pytest.mark.parametrize("instead", ["nothing", "another file"])
def test_a_file_that_was_removed_is_noticed(jobs, tmp_path, instead):
    """SQLite would store jobs in the file that has no name any more."""
    jobs.enqueue("mail.welcome", job_id="lost")
    for path in tmp_path.glob("jobs.db*"):
        path.unlink()
    if instead == "another file":
        (tmp_path / "jobs.db").touch()
    with pytest.raises(JobsUnavailable, match="storing a job") as caught:
        jobs.enqueue("mail.welcome", job_id="refused")
    assert f"{tmp_path}/jobs.db was removed or replaced" in str(caught.value.__cause__)
    jobs.enqueue("mail.welcome", job_id="later")
    assert [job.id for job in jobs.recent()] == ["later"]
    assert (tmp_path / "jobs.db").stat().st_size


@with_sqlite
def test_a_file_that_is_removed_during_a_call(jobs, tmp_path, monkeypatch):
    """What that has stored is gone."""
    jobs.enqueue("mail.welcome")
    put = jobs.engine._open()[0].enqueue

    def put_and_remove(*args):
        put(*args)
        (tmp_path / "jobs.db").unlink()

    monkeypatch.setattr(jobs.engine._open()[0], "enqueue", put_and_remove)
    with pytest.raises(JobsUnavailable):
        jobs.enqueue("mail.welcome")


@with_sqlite
def test_a_worker_whose_file_was_removed_ends(jobs, tmp_path):
    """The next one opens the file that is there then."""
    jobs.enqueue("mail.welcome")
    worker = Worker(jobs.engine, 0, 1)
    worker._file = jobs.engine.file()
    worker._slots = jobs.engine.slots()
    (tmp_path / "jobs.db").unlink()
    with pytest.raises(JobsUnavailable, match="keeping the file of the jobs"):
        worker._wait()


@with_sqlite
def test_a_question_mark_in_the_path_is_refused(tmp_path):
    """What follows would be left out without a word."""
    (tmp_path / "what?").mkdir()
    with pytest.raises(ValueError, match="Rename a directory"):
        Jobs(f"sqlite:///{tmp_path}/what?/jobs.db")


@with_sqlite
def test_a_file_that_is_mounted_alone_is_refused(tmp_path, monkeypatch):
    """Each container would have its own log. The message says what to mount."""
    path = tmp_path / "jobs.db"
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(sqlite_file, "MOUNTS", str(mounts))
    mounts.write_text(f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 /a {path} rw - ext4 x rw\n")
    path.touch()
    with pytest.raises(ValueError, match=f"Mount the directory {tmp_path} instead"):
        Jobs(f"sqlite:///{path}")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 /a {tmp_path} rw - ext4 x\n"
    )
    Jobs(f"sqlite:///{path}")


@with_sqlite
def test_a_file_with_two_names_is_refused(tmp_path):
    """Each name would have its own log."""
    path = tmp_path / "jobs.db"
    path.touch()
    os.link(path, tmp_path / "other")
    with pytest.raises(ValueError, match="several hard links"):
        Jobs(f"sqlite:///{path}")


@with_sqlite
def test_a_url_that_leads_elsewhere_by_now_is_logged(tmp_path, monkeypatch, caplog):
    """Once: a worker that starts here would not find the jobs."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    jobs = Jobs("sqlite:///jobs.db")
    jobs.handler("mail.welcome")(print)
    jobs.enqueue("mail.welcome")
    assert caplog.messages == []
    monkeypatch.chdir(tmp_path / "elsewhere")
    for _ in range(2):
        jobs.enqueue("mail.welcome")
    [message] = caplog.messages
    assert f"stored in {tmp_path}/jobs.db, where" in message
    assert f"It leads to {tmp_path}/elsewhere/jobs.db now" in message
    jobs.engine.close()


@with_sqlite
def test_a_worker_says_where_the_jobs_are(jobs, tmp_path):
    """The absolute path, and whether the file is new."""
    place = f"SQLite keeps the jobs in {tmp_path}/jobs.db"
    assert jobs.engine.where() == f"{place}, a new file that is made now"
    jobs.enqueue("mail.welcome")
    assert jobs.engine.where() == place


@with_sqlite
def test_rows_of_others_are_no_jobs(jobs, tmp_path):
    """Such as those of another release, and of "dbos workflow fork"."""
    jobs.enqueue("mail.welcome", job_id="a")
    engine = jobs.engine
    client, _ = engine._open()
    ids = ["elsewhere", "wsgi_defer:b:1:2", "wsgi_defer:b:x", "wsgi_defer:b:01"]
    for id_ in ids:
        client.enqueue({"workflow_name": FIRST, "workflow_id": id_,
                        "queue_name": "wsgi_defer", "app_version": engine.owner},
                       1)  # fmt: skip
    client.fork_workflow("wsgi_defer:a:1", 1, application_version=engine.owner)
    assert [job.id for job in jobs.recent()] == ["a"]
    for status, cleared in (("ERROR", 0), ("SUCCESS", 1)):
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as database, database:
            database.execute(
                f"UPDATE workflow_status SET status = '{status}', completed_at = 1"
            )
        failed = [job.id for job in jobs.failed()]
        assert failed == ["a"] * (status == "ERROR")
        assert jobs.clear(0) == cleared
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        count = database.execute("SELECT count(*) FROM workflow_status").fetchone()
    assert count == (len(ids) + 1,)


@with_sqlite
def test_a_client_of_the_new_file_stays_open(jobs, tmp_path):
    """Though a thread that used the old one sees only now that the file is another."""
    jobs.enqueue("mail.welcome")
    engine = jobs.engine
    old = engine._open()
    (tmp_path / "jobs.db").rename(tmp_path / "old.db")
    with pytest.raises(JobsUnavailable):
        jobs.enqueue("mail.welcome")
    jobs.enqueue("mail.welcome", job_id="new")
    new = engine._opened
    with pytest.raises(sqlite_file.FileGone):
        engine._check_file(old)
    assert engine._opened is new
    assert jobs.status("new").state == "queued"
