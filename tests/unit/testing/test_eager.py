"""eager(): each call runs inside defer()."""

from __future__ import annotations

import threading

import pytest

from wsgi_defer import DeferMiddleware, before_response, defer, deferring
from wsgi_defer.testing import captured, eager, strict

from ...helpers.client import get, text_app


def fail():
    """A call that fails."""
    raise LookupError("it")


@pytest.mark.promise("L21")
def test_it_runs_in_defer(ran):
    """Whatever the response will be."""

    def view():
        assert defer(ran.append, 1).on_failure().done()
        ran.append(2)
        assert defer(len, "four").result() == 4

    with eager():
        get(DeferMiddleware(text_app(view)))
    assert ran == [1, 2]


def test_its_error_is_raised_there(ran, caplog):
    """And is not logged: the view has it."""

    def view():
        with pytest.raises(LookupError, match="it"):
            defer(fail)
        defer(ran.append, 1)

    with eager():
        get(DeferMiddleware(text_app(view)))
    assert ran == [1]
    assert not caplog.records


def test_followers(ran):
    """They run inside then(), and its kind."""
    with eager(), deferring():
        call = defer(len, "four").then(ran.append).finally_(lambda: ran.append("f"))
        assert ran == [4, "f"]
        assert call.done()
        assert defer(len, "four").catch(ran.append).result() == 4
        with pytest.raises(LookupError):
            defer(len, "x").then(lambda _: fail())


@pytest.mark.promise("L21", "L22")
def test_calls_from_before(ran):
    """They run when they would have run."""
    with deferring():
        defer(ran.append, 1)
        cancelled = defer(ran.append, 2)
        cancelled.cancel()
        with eager():
            defer(ran.append, 3)
            cancelled.then(ran.append)
            assert ran == [3]
            before_response(ran.append, 4)
        defer(ran.append, 5)
        assert ran == [3]
    assert ran == [3, 4, 1, 5]


def test_outside_the_request(ran):
    """A handle in another thread defers as ever."""
    with eager(), deferring() as scope:
        call = defer(ran.append, 1)
        thread = threading.Thread(target=call.then, args=[ran.append])
        thread.start()
        thread.join()
        assert len(scope.pending) == 1
    assert ran == [1, None]


def test_nested_blocks(ran):
    """The innermost decides."""
    with eager():
        with captured() as calls, deferring():
            defer(ran.append, 1)
        assert (ran, len(calls)) == ([], 1)
        with strict(), deferring():
            defer(ran.append, 2)
            assert ran == []
        assert ran == [2]
    with strict(), eager(), deferring(), pytest.raises(LookupError):
        defer(fail)


def test_a_scope_around_this_one(ran):
    """A handle of it is one of this request."""
    with deferring():
        call = defer(ran.append, 1)
        with eager(), deferring():
            call.then(lambda _: ran.append(2))
            assert ran == [1, 2]


def test_nested_calls(ran):
    """A call that runs defers in the same way."""

    def outer():
        defer(ran.append, "inner")
        ran.append("outer")

    with eager(), deferring():
        defer(outer)
        assert ran == ["inner", "outer"]
