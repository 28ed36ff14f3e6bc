"""deferring(): a scope where there is no request."""

from __future__ import annotations

import logging

import pytest

from wsgi_defer import before_response, current_scope, defer, deferring


def fail():
    raise ValueError("boom")


def test_the_calls_run_at_the_end_of_the_block(ran):
    """In order, with an outcome that has no status."""
    with deferring() as scope:
        defer(ran.append, 1)
        before_response(ran.append, 0)
        defer(int).when(lambda outcome: ran.append(tuple(outcome)))
        assert current_scope() is scope
        assert ran == []
    assert ran == [0, 1, (None, None, True, None)]
    assert scope.closed


@pytest.mark.promise("L18")
def test_a_block_that_raises(ran):
    """Its calls see a failure, and its exception goes on."""
    with pytest.raises(LookupError), deferring():  # noqa: PT012
        defer(ran.append, "success")
        defer(ran.append, "failure").on_failure()
        before_response(ran.append, "held")
        raise LookupError
    assert ran == ["failure"]


@pytest.mark.promise("L18")
@pytest.mark.parametrize(("code", "expected"), [(0, [1]), (None, [1]), (1, [2])])
def test_a_block_that_exits(ran, code, expected):
    """sys.exit(0) is how a command ends well."""
    with pytest.raises(SystemExit) as caught, deferring():  # noqa: PT012
        defer(ran.append, 1)
        defer(ran.append, 2).on_failure()
        raise SystemExit(code)
    assert caught.value.code == code
    assert ran == expected


def test_a_held_call_that_raises(ran, caplog):
    """There is no client to tell, so the block raises it."""
    with pytest.raises(ValueError, match="boom"), deferring():  # noqa: PT012
        before_response(fail)
        before_response(ran.append, 0)
        defer(ran.append, 1)
        defer(ran.append, 2).always()
    assert ran == [2]
    assert "fail failed" in caplog.text


def test_as_a_decorator(ran):
    """Each call of the function has a scope of its own."""

    @deferring()
    def task():
        defer(ran.append, 1)

    task()
    task()
    assert ran == [1, 1]


def test_around(ran):
    """Each call, of either kind, runs inside a context of its own."""
    from contextlib import contextmanager

    @contextmanager
    def around():
        ran.append("enter")
        try:
            yield
        except ValueError:
            ran.append("failed")
            raise
        ran.append("exit")

    with deferring(around=around):
        before_response(ran.append, 1)
        defer(ran.append, 2)
        defer(fail)
    assert ran == ["enter", 1, "exit", "enter", 2, "exit", "enter", "failed"]


def test_an_error_in_around_is_one_of_the_call(ran, caplog):
    """It is logged, and the next call runs."""
    first = []

    def around():
        if not first:
            first.append(1)
            raise LookupError
        return deferring()

    with deferring(around=around) as scope:
        defer(ran.append, 1)
        defer(ran.append, 2)
    assert ran == [2]
    assert (scope.failed, scope.finished) == (1, 1)


def test_discarded_calls_are_logged_at_debug(caplog):
    """With the reason and the line."""
    caplog.set_level(logging.DEBUG, "wsgi_defer")
    with pytest.raises(LookupError), deferring():  # noqa: PT012
        before_response(fail)
        raise LookupError
    assert "skipped: the block raised" in caplog.text
    assert __file__ in caplog.text
