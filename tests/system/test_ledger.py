"""What the ledger has of a process that has died."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import warnings
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware, defer, deferring, gunicorn
from wsgi_defer.gunicorn import _hooks
from wsgi_defer.ledger import Ledger
from wsgi_defer.observers._observers import observe_process

from ..helpers.client import get
from ..unit.gunicorn.test_hooks import fork_worker, leave_a_call, make_server


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_in_a_call(number):
    """However it dies, the one that forked it knows."""
    book = Ledger(pages=4)
    page = book.take_page()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are threads; the child uses none
        pid = os.fork()
    if pid == 0:
        faulthandler.disable()  # it is meant to die
        observe_process(book.recorder(page))
        with deferring():
            defer(int)
            defer(os.kill, os.getpid(), number).named("the killer")
            defer(int).named("after it")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == number
    calls, unnamed = book.close_page(page)
    assert [(call.name, call.running) for call in calls] == [
        ("the killer", True), ("after it", False),
    ]  # fmt: skip
    assert unnamed == 0


@pytest.mark.promise("R12")
def test_a_process_that_dies_in_a_callable_of_response_finished():
    """It and those that were still to be called are named, after SIGKILL, too."""
    book = Ledger(pages=4)
    page = book.take_page()

    def kill(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    def never(*args):
        pass

    def app(environ, start_response):
        environ["wsgi.response_finished"] += [never, kill]
        start_response("200 OK", [])
        return []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        observe_process(book.recorder(page))
        get(DeferMiddleware(app))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    calls, _ = book.close_page(page)
    names = [(call.name.rpartition(".")[2], call.running) for call in calls]
    assert names == [("kill", True), ("never", False)]


@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_a_worker_that_was_killed_at_the_end(caplog, monkeypatch):
    """gunicorn calls on_exit only; it is waited for, but not for ever."""
    server = make_server(monkeypatch)
    monkeypatch.setattr(_hooks, "KILLED_WAIT", 0.05)
    pids = [os.spawnlp(os.P_NOWAIT, "sleep", "sleep", time) for time in ("0.02", "30")]
    workers = [SimpleNamespace(age=n, pid=pid) for n, pid in enumerate([*pids, 2**22])]
    for each in workers:
        fork_worker(server, each)
        leave_a_call(each)
    try:
        gunicorn.on_exit(server)
    finally:
        os.kill(pids[1], signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):  # it was waited for
                os.waitpid(pid, 0)
    assert caplog.text.count("was killed when graceful_timeout ran out") == 3
