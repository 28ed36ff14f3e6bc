"""DBOS without a worker: what is refused, stored, read, and not unpickled."""

from __future__ import annotations

import base64
import json
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing

import pytest

pytest.importorskip("dbos", reason="dbos is not installed")

from wsgi_defer.jobs import JobNotFailedError, Jobs, JobsUnavailable, UnknownJobError
from wsgi_defer.jobs.engines.dbos import client, database, sqlite_file
from wsgi_defer.jobs.engines.dbos.slots import FileSlots, take_one

from ..helpers.waiting import at_best, until

NEW_SQLITE = sqlite3.sqlite_version_info >= sqlite_file.SUBSECONDS
with_sqlite = pytest.mark.skipif(
    sys.version_info >= (3, 12) and not NEW_SQLITE,
    reason=f"DBOS needs SQLite 3.42 with this Python, and has {sqlite3.sqlite_version}",
)


def test_an_old_sqlite_is_refused(tmp_path, monkeypatch):
    """With this Python, DBOS would fail at its start, with an obscure error."""
    monkeypatch.chdir(tmp_path)  # the tests' directory may belong to another user
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    with pytest.raises(ValueError, match=r"needs SQLite 3\.42 or later"):
        Jobs("sqlite:///jobs.db")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 42, 0))
    Jobs("sqlite:///jobs.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:",
                                 "sqlite:///file:x?mode=memory&uri=true"])  # fmt: skip
@with_sqlite
def test_memory_is_refused(url):
    """No other process could see the jobs."""
    with pytest.raises(ValueError, match="in memory would be lost"):
        Jobs(url)


@with_sqlite
def test_places_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    """Each error names the place, and nothing is created."""
    with pytest.raises(ValueError, match=f"there is no directory {tmp_path}/no"):
        Jobs(f"sqlite:///{tmp_path}/no/jobs.db")
    with pytest.raises(ValueError, match="is not a file"):
        Jobs(f"sqlite:///{tmp_path}")
    with pytest.raises(ValueError, match="takes a path only"):
        Jobs(f"sqlite:///{tmp_path}/jobs.db?timeout=3")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "jobs.db").touch()
    for place in (tmp_path, tmp_path / "jobs.db"):
        monkeypatch.setattr(os, "access", lambda path, mode, at=place: path != str(at))
        with pytest.raises(ValueError, match=f"{place} cannot be written"):
            Jobs(f"sqlite:///{tmp_path}/jobs.db")


@with_sqlite
@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("nfs4", True),
        ("cifs", True),
        ("9p", True),
        ("fuse.sshfs", True),
        ("ext4", False),
        ("overlay", False),
        ("fuse.ext4", False),
    ],
)
def test_network_file_systems_are_refused(tmp_path, monkeypatch, kind, refused):
    """SQLite's locks do not work there. The longest mount point counts."""
    folder = tmp_path / "a b"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - nfs4 server:/ rw\n"
        f"2 1 8:2 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"3 2 8:3 / {escaped} rw shared:2 master:1 - {kind} there rw\n"
        f"4 2 8:3 / {escaped}x rw - nfs4 there rw\n"
    )
    monkeypatch.setattr(sqlite_file, "MOUNTS", str(mounts))
    Jobs(f"sqlite:///{tmp_path}/jobs.db")
    if refused:
        with pytest.raises(ValueError, match=rf"network file system \({kind}\)"):
            Jobs(f"sqlite:///{folder}/jobs.db")
    else:
        Jobs(f"sqlite:///{folder}/jobs.db")


def test_the_file_system_is_not_needed(monkeypatch):
    """Without /proc, nothing is refused because of it."""
    monkeypatch.setattr(sqlite_file, "MOUNTS", "/nowhere")
    assert sqlite_file.file_system("/", sqlite_file.mounts()) is None


def test_postgres_needs_a_database():
    """And no error shows the password."""
    with pytest.raises(ValueError, match="names no database") as caught:
        Jobs("dbos+postgresql://me:secret@host")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="none that SQLAlchemy knows") as caught:
        Jobs("dbos+postgresql://me:secret@host:port/x")
    assert "secret" not in str(caught.value)


@with_sqlite
def test_nothing_is_opened_before_the_first_use(jobs, tmp_path):
    """A preloaded app has no connection that crosses the fork."""
    assert jobs.engine.holds
    assert list(tmp_path.iterdir()) == []
    jobs.enqueue("mail.welcome")
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        mode = database.execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)


@with_sqlite
def test_a_relative_path_is_of_the_directory_of_that_time(tmp_path, monkeypatch):
    """The one where it was checked, not the one of the first job."""
    monkeypatch.chdir(tmp_path)
    jobs = Jobs("sqlite:///jobs.db")
    jobs.handler("mail.welcome")(print)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    jobs.enqueue("mail.welcome")
    jobs.engine.close()
    assert (tmp_path / "jobs.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@with_sqlite
def test_a_link_leads_to_the_same_jobs(tmp_path):
    """Workers of two releases, each with its link, cannot have one slot."""
    (tmp_path / "shared").mkdir()
    all_slots = []
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "jobs.db").symlink_to(tmp_path / "shared" / "jobs.db")
        jobs = Jobs(f"sqlite:///{tmp_path}/{release}/jobs.db")
        all_slots.append(jobs.engine.slots())
    assert [slots.take(0) for slots in all_slots] == [True, False]
    for slots in all_slots:
        slots.close()


@with_sqlite
def test_a_job_is_stored(jobs):
    """Its status can be read without a worker."""
    job_id = jobs.enqueue("mail.welcome", {"to": "ada"})
    job = jobs.status(job_id)
    assert (job.name, job.state, job.attempts) == ("mail.welcome", "queued", 0)
    assert abs(job.enqueued_at.timestamp() - time.time()) < 10
    assert jobs.recent() == [job]
    assert jobs.failed() == []
    assert jobs.status("a") is None


@with_sqlite
def test_nothing_is_a_pickle(jobs, tmp_path):
    """The arguments are JSON, and so is the payload inside them."""
    jobs.enqueue("mail.welcome", {"to": "\0"}, job_id="a")
    with sqlite3.connect(tmp_path / "jobs.db") as database:
        [(inputs,)] = database.execute("SELECT inputs FROM workflow_input").fetchall()
    database.close()
    assert json.loads(inputs) == {
        "args": [1, "mail.welcome", [60, 120], None, r'{"to":"\u0000"}'],
        "kwargs": {},
    }


class Evil:
    """Creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@with_sqlite
def test_a_pickle_in_the_database_is_not_read(jobs, tmp_path):
    """DBOS's own client would unpickle it."""
    jobs.enqueue("mail.welcome", 1, job_id="a")
    text = base64.b64encode(pickle.dumps(Evil(tmp_path / "evil"))).decode()
    with sqlite3.connect(tmp_path / "jobs.db") as database:
        database.execute(
            "UPDATE workflow_status SET serialization = 'py_pickle', status = 'ERROR'"
        )
        database.execute("UPDATE workflow_input SET inputs = ?", (text,))
        database.execute(
            "INSERT INTO workflow_output (workflow_uuid, output, error, "
            "retention_timestamp) SELECT workflow_uuid, ?, ?, 0 FROM workflow_status",
            (text, text),
        )
    database.close()
    [job] = jobs.failed()
    assert (job.id, job.name, job.state) == ("a", "?", "failed")
    assert job.error.startswith("it cannot be read")
    assert jobs.status("a") == jobs.recent()[0] == job
    assert not (tmp_path / "evil").exists()
    # That is what would happen.
    client, _ = jobs.engine._open()
    client.list_workflows()
    assert (tmp_path / "evil").exists()


@with_sqlite
def test_many_attempts_are_found(jobs):
    """Also if they do not fit into one query."""
    engine = jobs.engine
    jobs.enqueue("mail.welcome", 1, job_id="a")
    attempts = engine._open()[1]
    _, _, attempt = attempts.last("a")
    for place in range(2, 20):
        jobs.enqueue("mail.welcome", 1, job_id="b")
        engine.put(attempt, place, 0)
        found = attempts.of(["a", "b", "c"])
        assert [len(found["a"]), len(found["b"])] == [place, 1]
        assert set(found) == {"a", "b"}


def fail_all(path):
    """As if a worker had run them."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE workflow_status SET status = 'ERROR'")
    database.close()


@with_sqlite
def test_two_retries_of_one_failure_are_one(jobs, tmp_path, monkeypatch):
    """The second looks before the first, and stores after the job has failed again."""
    jobs.enqueue("mail.welcome", job_id="a")
    with pytest.raises(JobNotFailedError, match="is queued"):
        jobs.retry("a")
    with pytest.raises(UnknownJobError):
        jobs.retry("b")
    fail_all(tmp_path / "jobs.db")
    ask = jobs.engine._ask

    def look_then(*args):
        found = ask(*args)
        monkeypatch.setattr(jobs.engine, "_ask", ask)
        jobs.retry("a")
        fail_all(tmp_path / "jobs.db")
        return found

    monkeypatch.setattr(jobs.engine, "_ask", look_then)
    jobs.retry("a")
    attempts = jobs.engine._open()[1]
    assert attempts.last("a")[:2] == (2, "failed")
    jobs.retry("a")
    assert attempts.last("a")[:2] == (3, "queued")


BARRIER = """
import sys
from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs.engines.dbos import database
database.PATIENCE = 40  # six of them share a busy machine
jobs = Jobs(sys.argv[1])
jobs.handler("a")(print)
print("ready", flush=True)
sys.stdin.readline()
jobs.enqueue("a", job_id=sys.argv[2])
"""


@with_sqlite
def test_many_processes_may_be_the_first(jobs, tmp_path):
    """They make the file and its tables at the same time, and none fails."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", BARRIER, url, str(number)], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
        for number in range(6)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert len(jobs.recent()) == 6


@with_sqlite
@pytest.mark.parametrize("before", [True, False], ids=["in use", "new"])
def test_a_lock_that_stays_is_an_error(jobs, tmp_path, before):
    """Within 2 seconds, and the next call works again."""
    if before:
        jobs.enqueue("mail.welcome")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def measure():
        start = time.monotonic()
        with pytest.raises(JobsUnavailable, match=r"on SQLite .* storing a job"):
            jobs.enqueue("mail.welcome", job_id="a")
        return time.monotonic() - start

    at_best(measure, 2.3)
    other.close()
    jobs.enqueue("mail.welcome", job_id="a")
    assert jobs.status("a").state == "queued"


@with_sqlite
def test_a_short_lock_is_waited_for(jobs, tmp_path, monkeypatch):
    """Another writer is no error."""
    monkeypatch.setattr(database, "PATIENCE", 40)
    jobs.enqueue("mail.welcome")
    other = sqlite3.connect(
        tmp_path / "jobs.db", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.7, other.rollback)
    timer.start()
    jobs.enqueue("mail.welcome")
    timer.join()
    other.close()
    assert len(jobs.recent()) == 2


@with_sqlite
def test_a_slow_set_up_takes_nothing_of_the_patience(jobs, monkeypatch):
    """The first call still waits for another writer, after an opening of 10 s."""
    now, busy, opened = [0.0], [database.Busy], jobs.engine._open

    def open_slowly():
        now[0] = 10.0
        return opened()

    def ask(*_):
        if busy:
            raise busy.pop()
        return "an answer"

    monkeypatch.setattr(client, "monotonic", lambda: now[0])
    monkeypatch.setattr(jobs.engine, "_open", open_slowly)
    assert jobs.engine._ask("asking", ask) == "an answer"


@with_sqlite
def test_an_error_does_not_tell_the_payload(jobs, tmp_path, caplog):
    """SQLAlchemy would show the statement with its parameters."""
    jobs.enqueue("mail.welcome")
    with sqlite3.connect(tmp_path / "jobs.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON workflow_input "
                         "BEGIN SELECT RAISE(ABORT, 'no room'); END")  # fmt: skip
    database.close()
    secret = "4711" * 3
    with pytest.raises(JobsUnavailable) as caught:
        jobs.enqueue("mail.welcome", {"card": secret})
    text = "".join(traceback.format_exception(caught.value))
    assert "no room" in text
    assert secret not in text + caplog.text


@with_sqlite
def test_a_file_that_is_no_database_is_an_error(jobs, tmp_path):
    """JobsUnavailable, and its cause says why."""
    (tmp_path / "jobs.db").write_text("something else " * 1000)
    with pytest.raises(JobsUnavailable) as caught:
        jobs.enqueue("mail.welcome")
    assert "not a database" in str(caught.value.__cause__)


@pytest.mark.parametrize(("shape", "seconds"), [("closed", 0.5), ("silent", 2.5)])
def test_postgres_that_does_not_answer_is_an_error(shape, seconds):
    """At once if nobody listens, after 2 seconds if nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if shape == "silent":
            listener.listen()
        port = listener.getsockname()[1]
        jobs = Jobs(f"dbos+postgresql://me@127.0.0.1:{port}/jobs")
        jobs.handler("a")(print)
        for call in (lambda: jobs.enqueue("a"), jobs.recent, lambda: jobs.status("b")):

            def measure(call=call):
                start = time.monotonic()
                with pytest.raises(JobsUnavailable, match="DBOS on Postgres"):
                    call()
                return time.monotonic() - start

            at_best(measure, seconds)


def test_a_slot_belongs_to_one_process(tmp_path):
    """Another process takes the next slot. It is free when its holder has died."""
    path = str(tmp_path / "slots")
    code = (
        "import sys; from wsgi_defer.jobs.engines.dbos.slots import *\n"
        "slots = FileSlots(sys.argv[1])\n"
        "print(take_one(slots, 3), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "3\n"
    slots = FileSlots(path)
    assert not slots.take(3)
    assert take_one(slots, 3) == 0
    other.kill()
    other.communicate()
    assert slots.take(3)
    slots.close()


def test_a_fork_does_not_keep_a_slot(tmp_path):
    """A process that a job has forked may live longer than its worker."""
    path = str(tmp_path / "slots")
    code = (
        "import os, sys, time; from wsgi_defer.jobs.engines.dbos.slots import *\n"
        "slots = FileSlots(sys.argv[1]); slots.take(0)\n"
        "pid = os.fork()\n"
        "if not pid: time.sleep(30)\n"
        "else: print(pid, flush=True); os._exit(0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True
    )
    fork = int(process.stdout.readline())
    process.wait()
    try:
        slots = FileSlots(path)
        until(lambda: slots.take(0))  # letting go is the first thing that it does
        slots.close()
    finally:
        os.kill(fork, 9)
        process.communicate()


def test_a_slot_stays_when_its_file_is_read(tmp_path):
    """By a handler that makes a backup: closing a file drops all its POSIX locks."""
    slots = FileSlots(str(tmp_path / "slots"))
    assert slots.take(0)
    for file in tmp_path.iterdir():
        file.read_bytes()
    code = (
        "import sys; from wsgi_defer.jobs.engines.dbos.slots import *\n"
        "print(FileSlots(sys.argv[1]).take(0))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "slots")]
    assert subprocess.check_output(command, text=True) == "False\n"
    slots.give_back(0)
    assert subprocess.check_output(command, text=True) == "True\n"


def in_a_fork(act):
    """Call it in a child process; return its id, and a file with what it returned."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writes, str(act()).encode())
        except BaseException as error:
            os.write(writes, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writes)
    return child, open(reads, encoding="utf-8")


DAEMON = """
import os, sys, time
from wsgi_defer.jobs import Jobs
jobs = Jobs(sys.argv[1])
jobs.handler("a")(print)
jobs.enqueue("a", job_id="parent")
parent = os.getpid()  # which the child cannot ask for if it has ended
if os.fork():
    sys.exit()
jobs.enqueue("a", job_id="child")
while os.getppid() == parent:
    time.sleep(0.02)
print("alone", flush=True)
sys.stdin.readline()
jobs.enqueue("a", job_id="later")
print("done", flush=True)
os._exit(0)  # as if it were killed: it closes nothing
"""


@with_sqlite
def test_a_process_that_forks_and_ends_loses_no_jobs(jobs, tmp_path):
    """Closing a connection from before the fork would delete the child's log."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, f"sqlite:///{tmp_path}/jobs.db"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "alone\n"
        jobs.enqueue("mail.welcome", job_id="other")
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    assert {job.id for job in jobs.recent()} == {"parent", "child", "other", "later"}


@with_sqlite
@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_a_fork_while_other_threads_write(jobs, monkeypatch):
    """Their locks are not held in the child forever, and no connection crosses."""
    # Many write, to a disk that may be slow.
    monkeypatch.setattr(database, "PATIENCE", 40)
    jobs.enqueue("mail.welcome")
    stop = threading.Event()

    def write():
        while not stop.is_set():
            jobs.enqueue("mail.welcome")

    def enqueue():
        crossed = [fd for fd in os.listdir("/proc/self/fd") if "jobs.db" in
                   os.path.realpath(f"/proc/self/fd/{fd}")]  # fmt: skip
        time.sleep(1)
        jobs.enqueue("mail.welcome")
        return f"stored, {crossed}"

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(4):
        time.sleep(0.1)
        children.append(in_a_fork(enqueue))
    stop.set()
    for thread in threads:
        thread.join()
    for child, words in children:
        with words:
            assert words.read() == "stored, []"
        os.waitpid(child, 0)


@with_sqlite
@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_call(jobs):
    """It does not wait for itself. A signal handler may fork like this."""
    jobs.enqueue("mail.welcome", job_id="a")

    def measure():
        start = time.monotonic()
        child, words = jobs.engine._ask("forking", lambda *_: in_a_fork(lambda: "fine"))
        with words:
            assert words.read() == "fine"
        os.waitpid(child, 0)
        return time.monotonic() - start

    at_best(measure, 1)
    assert jobs.status("a").state == "queued"


C_FORK = """
import _imp, ctypes, os, sys
from wsgi_defer.jobs import Jobs
jobs = Jobs(sys.argv[1])
jobs.handler("a")(print)
jobs.engine  # as in a master that has imported the app
_imp.acquire_lock()  # as uWSGI's threads do: Python 3.14 releases it in the child
child = ctypes.PyDLL(None).fork()
if not child:
    ctypes.pythonapi.PyOS_AfterFork_Child()
    jobs.enqueue("a", job_id="child")
    os._exit(0)
_imp.release_lock()
os.waitpid(child, 0)
"""


@with_sqlite
def test_a_fork_in_c(jobs, tmp_path):
    """uWSGI's does not call the hooks before a fork, only those after it."""
    command = [sys.executable, "-c", C_FORK, f"sqlite:///{tmp_path}/jobs.db"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert jobs.status("child").state == "queued"
