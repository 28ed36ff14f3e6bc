"""The command: its processes live and stop as they should; its words help."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsgi_defer.jobs.__main__ import main
from wsgi_defer.jobs._supervisor import Slot

APP = """
import os, signal, sys, threading, time
from datetime import datetime, timezone
from pathlib import Path
from wsgi_defer.jobs import *

HERE = Path(__file__).parent

class Fake:
    title = "Fake"
    own_processes = False
    holds = True
    known = {}

    def work(self, slot, processes):
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *args: stop.set())
        (HERE / f"up.{slot}.{os.getpid()}").touch()
        while not stop.wait(0.02):
            if (HERE / f"die.{slot}").exists():
                os._exit(3)
        (HERE / f"term.{slot}.{os.getpid()}").touch()
        time.sleep(float((HERE / "finish").read_text()))
        (HERE / f"end.{slot}.{os.getpid()}").touch()

    def close(self):
        pass

    def status(self, job_id):
        return self.known.get(job_id)

    def recent(self, limit):
        return list(self.known.values())[:limit]

    def failed(self, limit):
        return [job for job in self.recent(99) if job.state == "failed"][:limit]

    def retry(self, job_id):
        if job_id not in self.known:
            raise UnknownJobError(job_id)
        if self.known[job_id].state != "failed":
            raise JobNotFailedError(job_id, self.known[job_id].state)

class Own(Fake):
    own_processes = True
    def work(self, slot, processes):
        (HERE / f"processes.{processes}").touch()
        super().work(slot, processes)

class Down(Fake):
    def recent(self, limit):
        try:
            raise OSError("connection refused\\nmore")
        except OSError as error:
            raise JobsUnavailable("Fake", "listing the jobs") from error

class Hopeless(Fake):
    def work(self, slot, processes):
        raise NotSupported("Hopeless", "have workers")

AT = datetime(2026, 11, 22, 13, 30, tzinfo=timezone.utc)
Fake.known = {job.id: job for job in [
    Job("a1", "mail.welcome", "done", 1, None, AT, AT, AT, AT, {"sent": True}),
    Job("longer-id", "x", "failed", 5, "OSError: \\x1b[31m two\\nlines " + "x" * 200,
        AT, finished_at=AT),
]}

def made(engine):
    jobs = Jobs(None)
    jobs._instead = engine()
    return jobs

jobs, own, down, hopeless = map(made, [Fake, Own, Down, Hopeless])
nothing = None
plain = Jobs(None)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the app of these tests, the current one."""
    (tmp_path / "command_app.py").write_text(APP)
    (tmp_path / "finish").write_text("0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("command_app", None)


def until(check, what, seconds=20):
    """Poll until the check is true; return what it gave."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.02)
    return found


def alive(pid):
    """Whether it runs: not gone, and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


SLOW = """
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(60)
"""


@contextmanager
def worker(here, target="jobs", *more):
    """The command in a process of its own, which the test ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wsgi_defer.jobs", "worker", f"command_app:{target}",
         *more], cwd=here, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)
        for pid in pids(here, "up"):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def pids(here, event, slot="*"):
    """Of the processes that left that trace."""
    return [int(path.suffix[1:]) for path in here.glob(f"{event}.{slot}.*")]


def test_the_worker_runs_a_process_per_slot_and_stops_them(here):
    """TERM lets all finish what runs, and the status is 0."""
    (here / "finish").write_text("0.5")
    with worker(here, "jobs", "--processes", "3") as process:
        until(lambda: len(pids(here, "up")) == 3, "three processes")
        assert all(len(pids(here, "up", slot)) == 1 for slot in range(3))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert sorted(pids(here, "end")) == sorted(pids(here, "up"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_app_is_imported(here, number):
    """As graceful as later."""
    (here / "command_slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "wsgi_defer.jobs", "worker", "command_slow:jobs"],
        cwd=here, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        until((here / "importing").exists, "the import")
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_names_that_the_terminal_cannot_show(here):
    """They are spelt out, and are no UnicodeEncodeError."""
    app = here / "command_app.py"
    app.write_text(app.read_text().replace('"OSError: ', '"Käse: '))
    shown = subprocess.run(
        [sys.executable, "-m", "wsgi_defer.jobs", "failed", "command_app:jobs"],
        cwd=here, capture_output=True, text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert shown.stderr == ""
    assert r"K\xe4se" in shown.stdout


def test_a_process_that_dies_is_started_again(here):
    """In its slot, and the log says how it ended."""
    with worker(here) as process:
        (first,) = until(lambda: pids(here, "up"), "a process")
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pids(here, "up", 0)) == 2, "another process")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert "slot 0 has ended by SIGKILL; it is started again" in errors
        assert process.returncode == 0


def test_one_that_dies_at_once_is_started_after_growing_pauses(here):
    """A worker that cannot start does not take the machine with it."""
    (here / "die.0").touch()
    with worker(here) as process:
        until(lambda: len(pids(here, "up")) == 4, "four processes")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        pauses = re.findall(r"with status 3; it is started again in (.*) s", errors)
        assert pauses[:3] == ["0.1", "0.2", "0.4"]


@pytest.mark.parametrize(
    ("lived", "pauses"),
    [(0, [0.1, 0.2, 0.4, 0.8]), (3, [0.1, 0.2, 0.4, 0.8]), (61, [0, 0, 0, 0])],
)
def test_only_a_process_that_has_settled_is_started_at_once(lived, pauses):
    """One that waits for its server for 2 seconds, and ends, would be a storm."""
    slot, found = Slot(0), []
    for _ in pauses:
        slot.start([sys.executable, "-c", "pass"])
        slot._started -= lived
        slot.process.wait()
        assert slot.reap() == 0
        found.append(max(0, slot.wait()))
    assert found == pytest.approx(pauses, abs=0.02)


def test_the_same_stop_may_come_twice(here):
    """A service manager signals each process; the supervisor passes its signal on."""
    (here / "finish").write_text("1")
    with worker(here, "jobs", "--processes", "2") as process:
        until(lambda: len(pids(here, "up")) == 2, "two processes")
        for pid in [*pids(here, "up"), process.pid, process.pid]:
            os.kill(pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert sorted(pids(here, "end")) == sorted(pids(here, "up"))


def test_a_later_second_stop_kills(here):
    """Somebody has waited long enough."""
    (here / "finish").write_text("60")
    with worker(here) as process:
        (child,) = until(lambda: pids(here, "up"), "a process")
        process.send_signal(signal.SIGINT)
        until(lambda: pids(here, "term"), "the process is told")
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        assert not alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a dead parent")
def test_the_processes_end_with_their_supervisor(here):
    """Gracefully, and nobody is left behind who would hold a slot."""
    with worker(here) as process:
        (child,) = until(lambda: pids(here, "up"), "a process")
        process.kill()
        until(lambda: pids(here, "end") == [child], "a graceful end")
        until(lambda: not alive(child), "its end")


def test_ctrl_c_reaches_the_supervisor_only(here):
    """The processes are in sessions of their own."""
    with worker(here) as process:
        (child,) = until(lambda: pids(here, "up"), "a process")
        assert os.getsid(child) == child != os.getsid(process.pid)


def test_an_engine_with_processes_of_its_own_has_one_slot(here):
    """It is told how many to start."""
    with worker(here, "own", "--processes", "3") as process:
        until(lambda: pids(here, "up", 0), "a process")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert len(pids(here, "up")) == 1
        assert (here / "processes.3").exists()


@pytest.mark.parametrize("target", ["hopeless", "plain"])
def test_what_cannot_have_workers_is_not_tried_again(here, target):
    """All processes end, with one line each and the status 1."""
    with worker(here, target, "--processes", "2") as process:
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "cannot have workers." in errors
        assert len(errors.splitlines()) <= 2


def test_list_is_aligned(here, capsys):
    """Titles, one line per job, nothing that a terminal would obey."""
    assert main(["list", "command_app:jobs"]) == 0
    titles, done, failed = capsys.readouterr().out.splitlines()
    assert titles.split() == ["ID", "NAME", "STATE", "ATTEMPTS", "ENQUEUED", "FINISHED"]
    assert done == ("a1         mail.welcome  done    1         "
                    "2026-11-22 13:30:00Z  2026-11-22 13:30:00Z")  # fmt: skip
    assert failed.index("failed") == done.index("done")


def test_failed_shows_errors_on_one_line(here, capsys):
    """Short ones, with their control characters spelt out."""
    assert main(["failed", "command_app:jobs", "--limit", "1"]) == 0
    _, failed = capsys.readouterr().out.splitlines()
    assert r"OSError: \x1b[31m two\nlines xxx" in failed
    assert failed.endswith("xxx...")


def test_json_is_complete(here, capsys):
    """With times as ISO 8601, for lists and for one job."""
    assert main(["list", "command_app:jobs", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [job["id"] for job in jobs] == ["a1", "longer-id"]
    assert main(["show", "command_app:jobs", "a1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == jobs[0]
    assert jobs[0]["result"] == {"sent": True}
    assert jobs[0]["due_at"] == "2026-11-22T13:30:00+00:00"


def test_show_tells_all(here, capsys):
    """A line per field."""
    assert main(["show", "command_app:jobs", "a1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "state        done" in lines
    assert "error        -" in lines
    assert 'result       {"sent": true}' in lines


def test_retry_goes_on_after_an_error(here, capsys):
    """What can be queued again, is; the status tells that something was not."""
    ids = ["strange", "a1", "longer-id"]
    assert main(["retry", "command_app:jobs", *ids]) == 1
    out, errors = capsys.readouterr()
    assert out == "longer-id is queued again\n"
    assert len(errors.splitlines()) == 2
    assert "there is no job 'strange'" in errors
    assert "the job 'a1' is done" in errors
    assert main(["retry", "command_app:jobs", "longer-id"]) == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["list", "no_such_app:jobs"], "cannot import no_such_app: ModuleNotFoundErr"),
        (["list", "command_broken:jobs"], "ZeroDivisionError: division by zero, in"),
        (["list", "command_app:jbos"], "command_app has no jbos"),
        (["list", "command_app:nothing"], "is no Jobs object, but NoneType"),
        (["list", "command_app:down"], "listing the jobs failed"),
        (["list", "command_app:down"], "(OSError: connection refused)"),
        (["show", "command_app:jobs", "x"], "there is no job 'x'"),
    ],
)
def test_what_goes_wrong_is_one_line(here, capsys, argv, says):
    """On stderr, with the status 1, and it says what."""
    (here / "command_broken.py").write_text("1 / 0")
    assert main(argv) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert says in errors
    assert errors.startswith("wsgi_defer.jobs: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["list"],
        ["list", "command_app"],
        ["list", "command_app:jobs", "--limit", "0"],
        ["worker", "command_app:jobs", "--processes", "none"],
        ["frobnicate", "command_app:jobs"],
    ],
)
def test_wrong_usage_has_the_status_2(here, capsys, argv):
    """And argparse's words."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(here, unbuffered):
    """Such as head(1), whether it is noticed at once or at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "wsgi_defer.jobs", "list", "command_app:jobs"],
        stdout=writer, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 0
