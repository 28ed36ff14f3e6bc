"""The command of jobs: its processes start and stop as they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace

import pytest

from wsgi_defer.jobs import _supervisor
from wsgi_defer.jobs._supervisor import Slot

from ..helpers.programs import is_running
from ..helpers.waiting import OF_PROCESSES, until

until = partial(until, patience=OF_PROCESSES)

SLOW = """
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(600)
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
        for pid in pids(here, "up"):
            if is_running(pid):
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=OF_PROCESSES)


def pids(here, event, slot="*"):
    """The ids of the processes that left that trace."""
    return [int(path.suffix[1:]) for path in here.glob(f"{event}.{slot}.*")]


def test_the_worker_runs_a_process_per_slot_and_stops_them(here):
    """On TERM, all finish what runs, and the status is 0."""
    (here / "finish").write_text("0.5")
    with worker(here, "jobs", "--processes", "3") as process:
        until(lambda: len(pids(here, "up")) == 3, "three processes")
        assert all(len(pids(here, "up", slot)) == 1 for slot in range(3))
        process.send_signal(signal.SIGTERM)
        assert process.wait(OF_PROCESSES) == 0
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
        assert process.wait(OF_PROCESSES) == 0
        assert process.stderr.read() == ""


def test_names_that_the_terminal_cannot_show(here):
    """They are spelt out, without a UnicodeEncodeError."""
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
        _, errors = process.communicate(timeout=OF_PROCESSES)
        assert "slot 0 has ended by SIGKILL; it is started again" in errors
        assert process.returncode == 0


def test_one_that_dies_at_once_is_started_after_growing_pauses(here):
    """A worker that cannot start does not take the machine with it."""
    (here / "die.0").touch()
    with worker(here) as process:
        until(lambda: len(pids(here, "up")) >= 4, "four processes")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=OF_PROCESSES)
        pauses = re.findall(r"with status 3; it is started again in (.*) s", errors)
        assert pauses[:3] == ["0.1", "0.2", "0.4"]


@pytest.mark.parametrize(
    ("lived", "pauses"),
    [(0, [0.1, 0.2, 0.4, 0.8]), (3, [0.1, 0.2, 0.4, 0.8]), (61, [0, 0, 0, 0])],
)
def test_only_a_process_that_has_settled_is_started_at_once(lived, pauses, monkeypatch):
    """Otherwise workers that wait 2 seconds for a server, and end, would be a storm."""
    slot, found, now = Slot(0), [], 1000.0
    monkeypatch.setattr(_supervisor, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in pauses:
        slot.start([sys.executable, "-c", "pass"])
        slot.process.wait()
        now += lived
        assert slot.reap() == 0
        found.append(slot.wait())
        assert slot.pause == pytest.approx(found[-1])
    assert found == pytest.approx(pauses)


def test_the_same_stop_may_come_twice(here):
    """A service manager signals each process; the supervisor passes its signal on."""
    (here / "finish").write_text("1")
    with worker(here, "jobs", "--processes", "2") as process:
        until(lambda: len(pids(here, "up")) == 2, "two processes")
        for pid in pids(here, "up"):
            os.kill(pid, signal.SIGTERM)
        # Frozen, it gets both at the same time, however slow we are.
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(OF_PROCESSES) == 0
        assert sorted(pids(here, "end")) == sorted(pids(here, "up"))


def test_a_later_second_stop_kills(here):
    """Somebody has waited long enough."""
    (here / "finish").write_text("600")
    with worker(here) as process:
        (child,) = until(lambda: pids(here, "up"), "a process")
        process.send_signal(signal.SIGINT)
        until(lambda: pids(here, "term"), "the process is told")
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(OF_PROCESSES) == 1
        assert not is_running(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a dead parent")
def test_the_processes_end_with_their_supervisor(here):
    """Gracefully, and no process is left that would hold a slot."""
    with worker(here) as process:
        (child,) = until(lambda: pids(here, "up"), "a process")
        process.kill()
        until(lambda: pids(here, "end") == [child], "a graceful end")
        until(lambda: not is_running(child), "its end")


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
        assert process.wait(OF_PROCESSES) == 0
        assert len(pids(here, "up")) == 1
        assert (here / "processes.3").exists()


@pytest.mark.parametrize("target", ["hopeless", "plain"])
def test_what_cannot_have_workers_is_not_tried_again(here, target):
    """All processes end, with one line each and the status 1."""
    with worker(here, target, "--processes", "2") as process:
        _, errors = process.communicate(timeout=OF_PROCESSES)
        assert process.returncode == 1
        assert "cannot have workers." in errors
        assert errors.count("cannot have workers.") <= 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(here, unbuffered):
    """Such as head(1). It may be noticed at once or at the end."""
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
