"""A child process, as its worker sees it: how it starts and ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from wsgi_defer import PoolStartError, WorkerDiedError, deferring, pool
from wsgi_defer.pools import ProcessPool, _child, _in_child
from wsgi_defer.pools._child import Child

from ..helpers.pools import LONG, same
from ..helpers.programs import is_alive, is_running, run_program
from ..helpers.waiting import PATIENCE, until


@pytest.mark.promise("L31")
def test_l31_a_child_that_exits(scope):
    """L31: the error has its exit code; the next task has a new child."""
    with pytest.raises(WorkerDiedError, match=r"_exit .* exit code 3") as caught:
        pool("processes").submit(os._exit, 3).result()
    error = caught.value
    assert (error.pool, error.exitcode) == ("processes", 3)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pool("processes").submit(same, 1).result() == 1


def test_a_child_that_is_killed(scope):
    """The code is the signal's."""
    task = pool("processes").submit(die)
    assert task.exception().exitcode == -signal.SIGKILL
    assert pool("processes").submit(same, 1).result() == 1


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_that_dies_while_it_has_nothing_to_do(scope):
    """The next task does not notice."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        other = pool("one").submit(os.getpid).result()
        assert other != pid
        assert pool("one").submit(os.getpid).result() == other
    until(lambda: not is_alive(other))  # nobody knows the pool any more


def ignore_term():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return os.getpid()


PROGRAM = """
import os, signal, sys, time
from tests.system.test_process_handle import ignore_term
from wsgi_defer import deferring, pool
from wsgi_defer.pools import ProcessPool, ThreadPool

if __name__ == "__main__":
    pools = {"cpu": ProcessPool(1), "threads": ThreadPool(1)}
    with deferring(pools=pools):
        pool("threads").submit(time.sleep, 300)
        print(pool("cpu").submit(ignore_term).result(), flush=True)
        if sys.argv[1] == "killed":
            task = pool("cpu").submit(time.sleep, 300)
            while not task.running():
                time.sleep(0.01)
            time.sleep(0.2)  # until the child has it; if not, it ends all the same
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("how", ["ends", "killed"])
def test_children_end_with_the_process(tmp_path, how, kernel):
    """Also when they ignore TERM; nobody waits for a thread, and no file is left."""
    if not kernel:  # that it sees to that
        (tmp_path / "ctypes.py").write_text("raise ImportError")
    status, output = run_program(tmp_path, PROGRAM, how)
    assert status == (0 if how == "ends" else -signal.SIGKILL)
    pid = int(output)
    until(lambda: not is_running(pid))  # long before its task is over
    assert list((tmp_path / "tmp").iterdir()) == []


FORKS = """
import os, sys, warnings
from wsgi_defer import deferring, pool
from wsgi_defer.pools import ProcessPool

class Result:
    def __init__(self):
        self.pid = os.getpid()

if __name__ == "__main__":
    with deferring(pools={"cpu": ProcessPool(1, max_wait=50)}):
        first = pool("cpu").submit(Result).result()
        assert type(first) is Result
        # Python 3.15 raises it: there are threads, and the child uses none.
        warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)
        pid = os.fork()
        if not pid:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert pool("cpu").submit(os.getpid).result() == first.pid
"""


def test_a_forked_child_that_exits_leaves_the_children_alone(tmp_path):
    """It runs all that is to be run at exit; functions may be those of the program."""
    assert run_program(tmp_path, FORKS) == (0, "")


@pytest.mark.parametrize(
    ("executable", "why"),
    [
        ("/nonexistent/python", "FileNotFoundError: "),
        (shutil.which("false"), "/false' ended with exit code 1"),
    ],
)
def test_a_child_that_does_not_come_up(executable, why):
    """The task fails with the reason, and the next one tries again."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        multiprocessing.set_executable(executable)
        try:
            task = pool("one").submit(same, 1)
            with pytest.raises(PoolStartError, match=why) as caught:
                task.result()
        finally:
            multiprocessing.set_executable(sys.executable)
        assert caught.value.pool == "one"
        assert "set_executable" in str(caught.value)
        assert pool("one").submit(same, 1).result() == 1


def test_a_signal_to_a_child_that_has_just_been_started(monkeypatch):
    """It is held back until the child can deal with it, and in the child only."""
    popen, held_back = subprocess.Popen, []

    def start(*args, **options):
        held_back.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        process = popen(*args, **options)
        process.send_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(_child.subprocess, "Popen", start)
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        blocked = pool("one").submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert blocked.result() == set()
        again = pool("one").submit(time.sleep, 0.1)
        again.add_done_callback(  # in the thread that has started it
            lambda _: held_back.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        )
        until(lambda: len(held_back) == 2)
    assert held_back == [set(_in_child.SIGNALS), set()]


def leave_a_process(note):
    pid = os.fork()
    if not pid:
        time.sleep(LONG)
        os._exit(0)
    note.write_text(str(pid))
    os._exit(3)


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_dies_and_leaves_a_process(tmp_path, monkeypatch, pidfd):
    """That holds the connection, which therefore does not end."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    note = tmp_path / "pid"
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        task = pool("one").submit(leave_a_process, note)
        assert task.exception().exitcode == 3
        os.kill(int(note.read_text()), signal.SIGKILL)
        assert pool("one").submit(same, 1).result() == 1


def leave_a_process_and_go_on(note):
    pid = os.fork()
    if not pid:
        time.sleep(LONG)
        os._exit(0)
    note.write_text(str(pid))
    return os.getpid()


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_with_nothing_to_do_dies_and_leaves_a_process(
    tmp_path, monkeypatch, pidfd
):
    """The next task does not notice, either."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    note = tmp_path / "pid"
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(leave_a_process_and_go_on, note).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert pool("one").submit(os.getpid).result() != pid
        os.kill(int(note.read_text()), signal.SIGKILL)


def test_a_child_that_is_killed_and_awaited_at_the_same_time():
    """Whoever comes when it has ended hits no other process."""
    for _ in range(5):
        child = Child()
        child.start("a")
        killers = [threading.Thread(target=child.kill) for _ in range(5)]
        for killer in killers:
            killer.start()
        # The end of the connection ends it, too.
        assert child.wait_for_end() in (0, -signal.SIGKILL)
        for killer in killers:
            killer.join()
        child.kill()
        assert child.wait_for_end() is None


def test_a_child_that_is_killed_before_it_is_started(monkeypatch):
    """It comes to nothing. Nothing but that ends it, and it never says that it is
    there, as it could where it is faster than who kills it."""
    monkeypatch.setattr(_child, "_command", lambda fd: ["sleep", str(LONG)])
    child = Child()
    child.kill()
    with pytest.raises(PoolStartError, match="exit code -9"):
        child.start("a")


@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_says_nothing_of_the_children(monkeypatch):
    """Not even that it has left one behind."""
    monkeypatch.setattr(_child, "END_WAIT", PATIENCE)
    child = Child()
    child.start("a")
    pid = os.fork()
    if not pid:
        sys.unraisablehook = lambda _: os._exit(5)
        child.forget()
        del child
        gc.collect()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert child.is_ready
    assert child.wait_for_end() == 0
