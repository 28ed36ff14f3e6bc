"""A child process, from its inside: signals, files, output, modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from wsgi_defer import deferring, pool
from wsgi_defer.pools import ProcessPool, _in_child

from ..helpers.pools import LONG, same, where_it_runs
from ..helpers.programs import program_output
from ..helpers.waiting import PATIENCE, until


def note_and_wait(path, seconds):
    path.write_text(str(os.getpid()))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.parametrize("number", _in_child.SIGNALS)
def test_a_signal_to_all_processes(scope, tmp_path, number):
    """As systemd sends it, or a terminal: the worker decides when its children end."""
    note = tmp_path / "pid"
    task = pool("processes").submit(note_and_wait, note, 0.5)
    until(lambda: note.exists() and note.read_text())
    os.kill(int(note.read_text()), number)
    assert task.result() == int(note.read_text())


def terminate_a_command():
    with subprocess.Popen(["sleep", str(LONG)]) as command:
        command.terminate()
        return command.wait(PATIENCE)


def test_commands_of_a_task_get_their_signals(scope):
    """They inherit neither a mask nor that a signal is ignored."""
    assert pool("processes").submit(terminate_a_command).result() == -signal.SIGTERM


def fork_and_return():
    pid = os.fork()
    if not pid:
        time.sleep(0.3)  # until the child has its next task
    return pid


def test_a_task_that_forks_has_one_answer():
    """That of the child, and not that of the process that it has forked."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        assert pool("one").submit(fork_and_return).result() > 0
        assert pool("one").submit(where_it_runs, 0.6).result() > 0


def inheritable_files():
    names = map(int, os.listdir("/proc/self/fd"))
    return [fd for fd in names if fd > 2 and is_open(fd) and os.get_inheritable(fd)]


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_commands_of_a_task_inherit_nothing(scope):
    """The connection is the child's alone."""
    assert pool("processes").submit(inheritable_files).result() == []


def test_what_a_task_prints(tmp_path, monkeypatch):
    """It is there when the task has ended, although its child is killed."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = """
        from wsgi_defer import deferring, pool
        from wsgi_defer.pools import ProcessPool
        if __name__ == "__main__":
            with deferring(pools={"one": ProcessPool(1)}):
                pool("one").submit(print, "printed").result()
        """
    assert program_output(tmp_path, program) == ["printed"]


def spoil_output():
    sys.stdout = None


def test_output_that_is_not_there():
    """Whatever a task puts in its place, its answer comes."""
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        assert pool("one").submit(spoil_output).result() is None
        assert pool("one").submit(same, 1).result() == 1


def test_a_program_that_uses_a_pool_while_it_is_imported(tmp_path):
    """It is told so, and does not start one child after the other."""
    program = """
        from wsgi_defer import PoolStartError, deferring, pool
        from wsgi_defer.pools import ProcessPool
        def double(number):
            return 2 * number
        with deferring(pools={"one": ProcessPool(1, max_wait=50)}):
            task = pool("one").submit(double, 2)
            if __name__ != "__main__":
                task.result()
            print(type(task.exception()).__name__, task.exception())
        """
    (output,) = program_output(tmp_path, program)
    assert output.startswith("PoolStartError")
    assert "imports a module that uses the pool" in output


def test_a_main_module_is_loaded_only_if_it_is_needed(tmp_path):
    """Not for its name in a text; and no name of ours is taken for one of its own."""
    program = """
        from wsgi_defer import deferring, pool
        from wsgi_defer.pools import ProcessPool
        print("loaded as", __name__, flush=True)
        def serve(number):
            return 2 * number
        if __name__ == "__main__":
            with deferring(pools={"one": ProcessPool(1)}):
                print(pool("one").submit(len, "__main__").result(), flush=True)
                print(pool("one").submit(serve, 2).result(), flush=True)
        """
    assert program_output(tmp_path, program) == [
        "loaded as __main__", "8", "loaded as __mp_main__", "4",
    ]  # fmt: skip
