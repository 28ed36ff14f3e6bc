"""The counts of the ledger are exact, whatever comes at whatever step."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from contextlib import suppress
from contextvars import Context, copy_context

import pytest

from wsgi_defer import DeferMiddleware, Observer, background, defer, deferring, ledger
from wsgi_defer._runtime import recording
from wsgi_defer.ledger import Ledger, _snapshot, snapshot
from wsgi_defer.ledger._reader import read
from wsgi_defer.observers._observers import observe_process, stop_observing

from ..helpers.client import get, text_app
from ..helpers.orders import handle_abort
from ..helpers.steps import each_step_of
from ..helpers.waiting import PATIENCE
from .test_steps import Ends

OURS = os.path.dirname(ledger.__file__) + os.sep


def ends_in(book):
    """How many calls have ended, in each way, by the ledger."""
    calls = read(book, whole=True, listeners=[]).calls
    return [sum(call[result] for call in calls) for result in range(1, 5)]


def failing():
    raise ValueError


def view():
    """Defer a call for each result but lost, and for each kind of entry."""
    defer(int)
    defer(failing)
    defer(int).on_failure()
    defer(int).cancel()
    defer(int).named("renamed")


@pytest.fixture(params=["room", "no room"])
def record(request):
    """Contexts in which the process has a page; with no room for names, if asked."""
    book = Ledger(pages=1)

    class Recorded:
        def __enter__(self):
            self.recorder = book.recorder(book.take_page())
            if request.param == "no room":
                del self.recorder._free[2:]
            observe_process(self.recorder)
            recording.install(self.recorder)

        def __exit__(self, *raised):
            gc.collect()  # what was dropped, its calls are lost
            assert background.join(PATIENCE)
            stop_observing(self.recorder)
            recording.install(None)
            book.close_page(0)

    Recorded.book = book
    return Recorded


def test_an_order_to_stop_at_any_step(record):
    """Each call that was registered is counted once: as what it was, or as lost."""
    total = 0
    for step in each_step_of(OURS, handler=handle_abort):
        heard = Ends()
        app = DeferMiddleware(text_app(view), observers=[heard])
        with record(), suppress(SystemExit), step:
            copy_context().run(get, app)
        total += len(heard.queued_ones)
        assert sum(ends_in(record.book)) == total, step.at
    assert total > 100


def test_the_collector_at_any_step(record):
    """It may end other calls there; each is counted."""

    def collect():
        Context().run(others)

    def others():
        with deferring():
            defer(int).named("of another")
            defer(failing)

    times = 0
    app = DeferMiddleware(text_app(view))
    for step in each_step_of(OURS, handler=collect):
        with record(), step:
            get(app)
        times += 1
        more = times if step.at else times - 1  # the last one came to no step
        found = ends_in(record.book)
        assert found == [2 * times + more, times + more, 2 * times, 0], step.at
    assert times > 50


class KilledAt:
    """Kills this process before that instruction of the ledger; the first one is 1."""

    def __init__(self, number):
        self.left = number

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


class Told(Observer):
    """Writes a letter for each call that is registered, and for each that ends."""

    def __init__(self, file):
        self.file = file

    def queued(self, call, scope):
        os.write(self.file, b"q")

    def finished(self, call, scope, *more):
        os.write(self.file, b"e")

    failed = skipped = finished


def test_a_process_that_is_killed_at_any_instruction():
    """Each call is counted, once: what was being noted, one way or the other."""
    book = Ledger(pages=1)
    for number in range(1, 10_000, 23):
        page = book.take_page()
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are threads; the child uses none
            pid = os.fork()
        if pid == 0:
            observe_process(book.recorder(page))
            app = DeferMiddleware(text_app(view), observers=[Told(writes)])
            sys._getframe().f_trace_opcodes = True  # Python 3.12 asks here
            sys.settrace(KilledAt(number))
            get(app)
            os._exit(0)
        os.close(writes)
        with open(reads, "rb") as file:
            told = file.read()
        killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        before = ends_in(book)
        left, _ = book.close_page(page)
        ends = ends_in(book)
        lost = ends[3] - before[3]
        book = Ledger(pages=1)
        assert told.count(b"q") <= sum(ends) <= told.count(b"q") + 1, number
        assert told.count(b"e") - 1 <= sum(ends[:3]) <= told.count(b"e") + 1, number
        assert lost == len(left)
        if not killed:
            break
    assert ends == [2, 1, 2, 0]
    assert number > 500


@pytest.fixture
def recorded(monkeypatch):
    """This process has a ledger of its own."""
    monkeypatch.setattr(_snapshot._known, "shared", None)
    ledger.record()
    yield
    _snapshot._known.stop()


def test_a_process_that_is_forked(recorded):
    """It has figures of its own, and leaves those of its parent alone."""
    app = DeferMiddleware(text_app(view))
    get(app)
    before = snapshot().requests
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            get(app)
            status = snapshot().requests != 1  # its own
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert snapshot().requests == before
