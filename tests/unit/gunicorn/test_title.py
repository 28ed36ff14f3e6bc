"""The title of a process that runs calls after a response."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware, before_response, defer, deferring
from wsgi_defer._calls.drain import report_lost
from wsgi_defer.gunicorn import _title

from ...helpers.client import get

OURS = "gunicorn: worker [shop]"


class Process:
    """One whose title can be set. ``seen()`` is the title, less what it was at first.

    It counts how often somebody has asked for it, or set it.
    """

    def __init__(self):
        self.title = OURS
        self.used = 0

    def getproctitle(self):
        self.used += 1
        return self.title

    def setproctitle(self, title):
        self.used += 1
        self.title = title

    def seen(self):
        assert self.title.startswith(OURS)
        return self.title.removeprefix(OURS)


@pytest.fixture
def process(monkeypatch):
    """This process, with a title that is not real; it shows calls from now on."""
    process = Process()
    monkeypatch.setitem(sys.modules, "setproctitle", process)
    monkeypatch.setattr(sys, "platform", "linux")
    _title.show_calls()
    _title.show_calls()  # by the worker class, and by the hook
    yield process
    _title.show_no_calls()


def test_the_call_that_runs(process, ran):
    """Each in turn, and the old title afterwards, also if one fails."""

    def fail():
        ran.append(process.seen())
        raise ValueError

    def view(environ, start_response):
        defer(fail).named("first")
        defer(lambda: ran.append(process.seen())).named("second")
        ran.append(process.seen())
        start_response("200 OK", [])
        return [b"x"]

    get(DeferMiddleware(view))
    assert ran == ["", " after response: first", " after response: second"]
    assert process.title == OURS
    assert process.used == 1 + 4  # asked for once


def test_what_runs_before_the_response_has_ended(process, ran):
    """It is part of the request: what is held for the response, or awaited, and a block
    in a view."""

    def look():
        ran.append(process.seen())

    def view(environ, start_response):
        before_response(look)
        defer(look).result()
        with deferring():
            defer(look)
        start_response("200 OK", [])
        return [b"x"]

    get(DeferMiddleware(view))
    assert ran == ["", "", ""]
    assert process.used == 1


def test_a_call_in_a_call(process, ran):
    """It is named while it runs."""

    def outer():
        with deferring():
            defer(lambda: ran.append(process.seen())).named("inner")
        ran.append(process.seen())

    with deferring():
        defer(outer).named("outer")
    assert ran == [" after response: inner", " after response: outer"]
    assert process.title == OURS


def test_several_threads(process):
    """The last one that has started, of those that still run."""
    [title] = _title._titles
    scope = SimpleNamespace(outer=None, outcome=object())
    first, second, third = (SimpleNamespace(label=name) for name in "123")
    seen = []
    for what, call in [
        (title.started, first), (title.started, second), (title.finished, first),
        (title.started, third), (title.started, first), (title.finished, first),
        (title.finished, third), (title.finished, second), (title.finished, second),
    ]:  # fmt: skip
        what(call, scope)
        seen.append(process.seen().removeprefix(" after response: "))
    assert seen == ["1", "2", "2", "3", "1", "3", "2", "", ""]


def test_a_call_that_is_lost(process):
    """It runs no more, as far as is known."""

    def stop():
        assert process.seen() == " after response: stopped"
        report_lost(scope, "the end")
        assert process.title == OURS

    with deferring() as scope:
        defer(stop).named("stopped")
    assert process.title == OURS


def test_names_that_would_harm(process, ran):
    """They are escaped, and cut."""

    def look():
        ran.append(process.seen())

    look.__qualname__ = "look\0"
    with deferring():
        defer(look).named("a\0b\n\x1b" + 200 * "x")
        defer(look)
    named, of_function = ran
    assert of_function.endswith(r"test_title.look\x00")
    assert named.startswith(r" after response: a\x00b\n\x1bx")
    assert len(named) == len(" after response: ") + _title.LONGEST
    assert named.endswith("x...")


@pytest.mark.parametrize(("module", "platform"), [(None, "linux"), ("x", "darwin")])
def test_not_where_gunicorn_does_not(module, platform, monkeypatch):
    """Without setproctitle, or on macOS, nothing is added."""
    monkeypatch.setitem(sys.modules, "setproctitle", module)
    monkeypatch.setattr(sys, "platform", platform)
    _title.show_calls()
    assert _title._titles == []
