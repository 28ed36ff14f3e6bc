"""Tasks in child processes."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import threading
import traceback

import pytest

from wsgi_defer import (
    PoolTimeoutError,
    RemoteError,
    UnpicklableError,
    current_scope,
    deferring,
    pool,
)
from wsgi_defer.pools import ProcessPool
from wsgi_defer.pools._child import Child
from wsgi_defer.pools._processes import Place
from wsgi_defer.pools._task import Task

from ..helpers.pools import (
    POOLS,
    PROCESSES,
    FrozenError,
    HostileError,
    check_that_it_keeps_nothing,
    impatient,
    note_and_sleep,
    pids_of_children,
    raise_frozen,
    raise_hostile,
    raise_odd,
    running_of,
    same,
    where_it_runs,
)
from ..helpers.programs import is_alive
from ..helpers.waiting import PATIENCE, until

variable_of_module = []


def read_variable():
    return variable_of_module


def test_processes_are_others(scope):
    """Not forked from this one, so they know nothing of the request."""
    future = pool("processes").submit(os.getpid)
    assert future.result() != os.getpid()
    variable_of_module.append("written in the parent")
    assert pool("processes").submit(read_variable).result() == []
    assert pool("processes").submit(current_scope).result() is None


def test_p13_what_cannot_be_pickled(scope):
    """P13: pickle and not JSON; what it cannot do is an error at submit."""
    for fn, args in ((lambda: 1, ()), (same, (threading.Lock(),))):
        with pytest.raises(UnpicklableError) as caught:
            pool("processes").submit(fn, *args)
        assert (caught.value.pool, caught.value.what) == ("processes", "call")
        assert re.search(r"Error in (function|lock)\)", str(caught.value))
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert pool("processes").submit(same, {1: (2, b"3")}).result() == {1: (2, b"3")}


def test_p13_a_result_that_cannot_be_pickled(scope):
    """P13: the task fails, and says why."""
    with pytest.raises(UnpicklableError, match="the result of _thread") as caught:
        pool("processes").submit(threading.Lock).result()
    assert caught.value.why == "TypeError in lock"


class Private:
    """Nothing that it does is to be seen in a log."""

    def __init__(self, where):
        self.where = where

    def __repr__(self):
        return "a secret"

    def __reduce__(self):
        if self.where == "sent":
            raise pickle.PicklingError(f"Can't pickle {self!r}")
        return open_here, (os.getpid(), repr(self))


def open_here(pid, secret):
    """What comes from another process cannot be opened."""
    if os.getpid() != pid:
        raise LookupError(secret)


@pytest.mark.parametrize("what", ["call", "result"])
@pytest.mark.parametrize("where", ["sent", "received"])
def test_errors_of_pickle_show_no_arguments(scope, what, where):
    """Their text does, so that neither the error nor its traceback has it."""
    call = (same, Private(where)) if what == "call" else (Private, where)
    with pytest.raises((UnpicklableError, LookupError)) as caught:
        pool("processes").submit(*call).result()
    text = "".join(traceback.format_exception(caught.value))
    if (what, where) == ("call", "received"):  # the app's own error, in the child
        assert caught.type is LookupError
    else:
        assert caught.value.what == what
        assert "secret" not in text


def test_an_exception_that_cannot_be_sent(scope):
    """Its class and text come, and its traceback."""
    with pytest.raises(RemoteError, match="OddError: 1 and 2") as caught:
        pool("processes").submit(raise_odd).result()
    assert caught.value.kind == "OddError"
    assert "in raise_odd" in str(caught.value.__cause__)


class NoError(Exception):
    """It arrives as something else."""

    def __reduce__(self):
        return int, ()


def raise_no_error():
    raise NoError


def test_an_exception_that_cannot_even_be_shown(scope):
    """The child survives it."""
    pool("processes").submit(same, 1).result()
    before = pids_of_children()
    for fn, kind in ((raise_hostile, "HostileError"), (raise_no_error, "NoError")):
        with pytest.raises(RemoteError) as caught:
            pool("processes").submit(fn).result()
        assert caught.value.kind == kind
        assert f"in {fn.__name__}" in str(caught.value.__cause__)
    with pytest.raises(UnpicklableError, match="SystemExit in HostileError"):
        pool("processes").submit(HostileError).result()
    assert before <= pids_of_children()


def test_an_exception_that_refuses_attributes(scope):
    """It comes at once, and not after max_wait."""
    with pytest.raises(FrozenError) as caught:
        pool("processes").submit(raise_frozen).result()
    assert caught.value.number == 5


def test_a_payload_lives_no_longer_than_its_task(scope, tmp_path):
    """However that ends."""
    note = tmp_path / "pid"
    done = pool("processes").submit(len, bytes(1_000_000))
    assert done.result() == 1_000_000
    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        runs = pool("one").submit(note_and_sleep, note)
        waits = pool("one").submit(same, 1)
        until(note.exists)
        assert (runs.payload, waits.payload != b"") == (b"", True)
        assert waits.cancel()
    assert (done.payload, runs.payload, waits.payload) == (b"", b"", b"")


def test_large_calls_and_results(scope):
    """They take several pieces in either direction."""
    data = os.urandom(3_000_000)
    assert pool("processes").submit(same, data).result() == data


def test_a_cancel_that_comes_late_ends_no_other_task(scope, monkeypatch):
    """The child of that task is given no other one, as it is about to be killed."""
    ask, kill, cancelled, killing = Child.ask, Child.kill, [], []
    submitted = threading.Event()

    def answer_and_cancel(child, data):
        answer = ask(child, data)
        assert submitted.wait(PATIENCE)
        if not cancelled:
            cancelled.append(task.cancel())
        return answer

    def kill_slowly(child):
        child.doomed = True
        killing.append(threading.Timer(0.3, kill, [child]))
        killing[-1].start()

    with deferring(pools={"one": ProcessPool(1, max_wait=PATIENCE)}):
        pid = pool("one").submit(os.getpid).result()
        with monkeypatch.context() as patched:
            patched.setattr(Child, "ask", answer_and_cancel)
            patched.setattr(Child, "kill", kill_slowly)
            task = pool("one").submit(same, 1)
            submitted.set()
            until(lambda: cancelled)
            assert pool("one").submit(where_it_runs, 0.6).result() != pid
        for timer in killing:
            timer.join()
    assert cancelled == [True]


@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_a_process_pool_in_a_forked_child(scope, tmp_path):
    """It has its own, and leaves that of its parent alone."""
    note = tmp_path / "pid"
    task = pool("processes").submit(note_and_sleep, note, 1)
    running = running_of(PROCESSES)
    until(note.exists)  # its child has been started
    pool("processes").submit(same, 1).result()
    children = pids_of_children()
    held = list(running.children)
    with held_elsewhere(running.serving_lock, *(child._lock for child in held)):
        pid = os.fork()
    if not pid:
        status = 1
        signal.alarm(PATIENCE)
        with contextlib.suppress(BaseException):
            task.cancel()
            running.close()
            with deferring(pools=POOLS):
                mine = pool("processes").submit(os.getpid).result(PATIENCE)
            status = 3 if mine not in children else 4
            if any(child._connection.fileno() != -1 for child in held):
                status = 5
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert task.result() in children
    assert pool("processes").submit(os.getpid).result() in children
    assert pids_of_children() == children


@contextlib.contextmanager
def held_elsewhere(*locks):
    """Another thread has them."""
    have, release = threading.Event(), threading.Event()

    def hold_them():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            have.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold_them)
    thread.start()
    assert have.wait(PATIENCE)
    yield
    release.set()
    if thread.is_alive():  # not in a process that was forked
        thread.join()


@pytest.mark.parametrize("done", [True, False])
def test_a_task_that_ends_as_its_child_is_asked(scope, monkeypatch, done):
    """No child is asked to run what the task has let go of, or is about to."""
    pool("processes").submit(same, 1).result()
    running = running_of(PROCESSES)
    monkeypatch.setattr(Child, "ask", lambda child, data: pytest.fail("asked"))
    task = Task(running, "processes", scope, os.getpid, (), {})
    if done:
        task.payload = b"of a task that is late"
        task.set_exception(LookupError())
    assert Place(running)._ask(task) is None
    assert not running.serving


@pytest.mark.parametrize("how", ["cancelled", "late", "request over"])
def test_a_pool_that_hangs_keeps_nothing(how, tmp_path):
    """Tasks that have not begun leave it when nobody wants them any more."""
    check_that_it_keeps_nothing(ProcessPool(1, max_wait=PATIENCE), how, tmp_path / "go")


@pytest.mark.promise("L33")
def test_max_wait_ends_a_child(tmp_path):
    """And a new one takes its place."""
    note, kind = tmp_path / "pid", ProcessPool(1, max_wait=PATIENCE)
    with deferring(pools={"one": kind}):
        pool("one").submit(same, 1).result()
        with impatient(kind, lambda task: note.exists()):
            task = pool("one").submit(note_and_sleep, note)
            assert isinstance(task.exception(), PoolTimeoutError)
        pid = int(note.read_text())
        until(lambda: not is_alive(pid))
        assert pool("one").submit(same, 1).result() == 1


@pytest.mark.promise("P7")
def test_p7_cancel_ends_a_child(scope, tmp_path):
    """P7: a task that runs is cancelled with its process."""
    note = tmp_path / "pid"
    task = pool("processes").submit(note_and_sleep, note)
    until(note.exists)
    assert task.running()
    assert task.cancel()
    assert task.cancelled()
    pid = int(note.read_text())
    until(lambda: not is_alive(pid))
    assert pool("processes").submit(same, 1).result() == 1


@pytest.mark.promise("P9")
def test_p9_a_task_in_a_process_ends_with_the_request(tmp_path):
    """P9: its child is ended."""
    note = tmp_path / "pid"
    with deferring(pools=POOLS):
        task = pool("processes").submit(note_and_sleep, note)
        until(note.exists)
    assert task.cancelled()
    pid = int(note.read_text())
    until(lambda: not is_alive(pid))
