"""The filter of PasteDeploy: its options are texts."""

from __future__ import annotations

import inspect

import pytest

from wsgi_defer import DeferMiddleware, paste


def app(environ, start_response):
    """Is not called."""


def test_options():
    """They are those of the middleware, but for objects."""
    wrapped = paste.filter_app(
        app, {"debug": "true"}, max_calls=" 5 ", time_limit="1.5", inline="False",
        when_busy="thread", max_waiting="7", when_full="drop", background_threads="2",
    )  # fmt: skip
    assert wrapped.app is app
    options = wrapped.options
    assert (options.max_calls, options.time_limit, options.inline) == (5, 1.5, False)
    assert (options.when_busy, options.room.limit) == ("thread", 7)
    assert options.background_threads == 2
    parameters = set(inspect.signature(DeferMiddleware).parameters)
    assert parameters - {"app", "around", "observers", "pools"} == set(paste._KINDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": "5"}, "has no option 'limit', only max_calls, "),
        ({"max_calls": "many"}, "max_calls = many is not a value of that option"),
        ({"inline": "yes"}, "inline = yes is not"),
        ({"when_busy": "never"}, "when_busy is 'inline' or 'thread', not 'never'"),
    ],
)
def test_wrong_options(options, message):
    """They are told at the start."""
    with pytest.raises(ValueError, match=message):
        paste.filter_app(app, {}, **options)
