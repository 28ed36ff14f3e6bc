"""The ledger: what a process has left, read by the one that forked it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware, current_scope, defer, deferring, ledger
from wsgi_defer._calls.drain import report_lost
from wsgi_defer.ledger import ENTRIES, Ledger
from wsgi_defer.ledger import _layout as at
from wsgi_defer.observers._observers import observe_process, stop_observing

from ..helpers.client import make_environ, text_app


@pytest.fixture
def book():
    return Ledger(pages=4)


@pytest.fixture
def recorded(book):
    """Everything in this process goes into page 0."""
    recorder = book.recorder(book.take_page())
    observe_process(recorder)
    yield recorder
    stop_observing(recorder)


def left(book):
    """What the ledger holds now; reading it empties it."""
    calls, unnamed = book.close_page(0)
    book.take_page()
    return [(call.name, call.running) for call in calls], unnamed


def test_what_waits_and_what_runs(book, recorded):
    """The running one first; a later name is known; nothing else is left."""
    seen = []

    def look():
        seen.append(book.close_page(0))
        book.take_page()

    with deferring():
        defer(int, "x").named("fails")
        defer(float).cancel()
        defer(look).named("looks")
        defer(str).named("waits")
        defer(bytes)
    ((calls, unnamed),) = seen
    assert [(call.name, call.running) for call in calls] == [
        ("looks", True), ("waits", False), ("builtins.bytes", False),
    ]  # fmt: skip
    assert unnamed == 0
    assert all(0 <= call.since < 5 for call in calls)
    assert len(recorded._free) == ENTRIES
    assert recorded._entries == {}


def test_every_end_is_one(book, recorded):
    """Finished, failed, skipped, lost: each gives its entry back."""
    with deferring():
        defer(int)
        defer(int, "x")
        defer(int).named("twice")
        defer(int).named("twice").cancel()
        defer(int).on_failure()
    with deferring():
        defer(int)
        report_lost(current_scope(), "the end")
    assert left(book) == ([], 0)
    assert len(recorded._free) == ENTRIES


def test_more_calls_than_entries(book, recorded):
    """Those above are counted, and named if they run after all; nothing grows."""
    seen = []

    def look():
        seen.append(left(book))

    size = len(book.memory)
    with deferring(max_calls=ENTRIES + 10):
        for _ in range(ENTRIES + 5):
            defer(int)
        defer(look).named("the last one")
        assert left(book)[1] == 6
    assert seen == [([("the last one", True)], 0)]
    assert len(recorded._free) == ENTRIES
    assert recorded._unnamed == {}
    assert len(book.memory) == size


def test_slots_are_used_again(book):
    """Thousands of deaths take no more room than the workers of one moment."""
    assert [book.take_page() for _ in range(5)] == [0, 1, 2, 3, None]
    book.close_page(2)
    book.close_page(1)
    assert book.take_page() == 1
    for _ in range(5000):
        book.close_page(1)
        assert book.take_page() == 1


def test_long_names_are_cut(book, recorded):
    """And one that cannot be written in UTF-8 is escaped."""
    with deferring() as scope:
        defer(int).named("n" * 1000)
        defer(int).named("\udcff")
        defer(int).named("é" * 200)
        names = [call.name for call in book.close_page(0)[0]]
        book.take_page()
        report_lost(scope, "the test has seen enough")
    assert sorted(len(name) for name in names) == [6, 84, 168]
    assert at.ENTRY.size == ledger.NAME + ledger.REQUEST + 24


def test_a_name_that_comes_too_late(book, recorded):
    """The entry may be another call's by then."""
    with deferring():
        call = defer(int)
    with deferring() as scope:
        defer(float)
        call.named("late")
        assert left(book) == ([("builtins.float", False)], 0)
        report_lost(scope, "the test has seen enough")


def test_calls_without_an_entry_that_never_run(book, recorded):
    """They are counted no more."""
    recorded._free.clear()
    with deferring():
        defer(int).cancel()
        defer(int).on_failure()
        assert recorded._numbers[recorded._page + at.UNNAMED] == 2
    assert left(book) == ([], 0)


def test_a_name_for_the_running_call(book, recorded):
    """It is still known to run, under its new name."""
    seen = []

    def rename():
        call.named("renamed")
        seen.append(left(book))

    with deferring():
        call = defer(rename)
    assert seen == [([("renamed", True)], 0)]


def test_a_cancelled_call_is_not_left(book, recorded):
    """Even if the process dies before it comes to it."""
    with deferring():
        defer(int).cancel()
        defer(float)
        calls, _ = book.close_page(0)
        book.take_page()
    assert [call.name for call in calls] == ["builtins.float"]
    assert len(recorded._free) == ENTRIES


def test_a_child_of_a_worker(book, recorded):
    """It has its parent's calls, and must not write where they are."""
    with deferring() as scope:
        call = defer(int)
        recorded.forget()
        call.named("renamed in the child")
        assert left(book) == ([("builtins.int", False)], 0)
        report_lost(scope, "the test has seen enough")


def test_names_that_are_no_text(book, recorded):
    """With the hooks as without."""
    with deferring() as scope:
        defer(int).named(42)
        assert left(book) == ([("42", False)], 0)
        report_lost(scope, "the test has seen enough")


def test_the_longest_request_id(book):
    """It stays inside its field."""
    observe_process(recorder := book.recorder(book.take_page()))
    try:
        app = DeferMiddleware(text_app(lambda: [defer(int), defer(float)]))
        environ = make_environ(HTTP_X_REQUEST_ID="x" * 63)
        body = app(environ, lambda status, headers: None)
        calls, _ = book.close_page(0)
        body.close()
    finally:
        stop_observing(recorder)
    assert [call.request_id for call in calls] == ["x" * 63] * 2
    with deferring():
        calls = [defer(int), defer(float)]
    longer = SimpleNamespace(request_id="y" * 99)
    for call in calls:
        recorder.queued(call, longer)
    left, _ = book.close_page(0)
    assert {call.name: call.request_id for call in left} == {
        "builtins.int": "y" * 64,
        "builtins.float": "y" * 64,
    }


def shared_memory():
    """Kilobytes of it that this process has."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssShmem:\s+(\d+) kB", status)[1])


def test_memory_that_was_not_used_is_not_read():
    """It would be allocated by that: a page for each page, and not all of it."""
    book = Ledger(pages=64)
    before = shared_memory()
    for _ in range(64):
        book.take_page()
    for page in range(64):
        assert book.close_page(page) == ([], 0)
    assert shared_memory() - before <= 65 * 4


def test_what_is_left_so_far(recorded):
    """For the process that writes it: the calls that run come first."""

    def look():
        calls, unnamed = recorded.left()
        seen.append([(call.name, call.running) for call in calls])
        assert unnamed == 0
        recorded._numbers[next(iter(recorded._entries.values()))[0]] = 0  # just over
        assert len(recorded.left()[0]) == 1

    seen = []
    with deferring():
        waits = defer(int).named("waits")
        defer(look).named("runs")
        waits.cancel()
        defer(int).named("the last one")
    assert seen == [[("runs", True), ("the last one", False)]]
    assert recorded.left() == ([], 0)
