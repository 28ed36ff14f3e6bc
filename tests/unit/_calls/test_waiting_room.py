"""How many calls may wait in a process, and what happens above that."""

from __future__ import annotations

import gc

import pytest

from wsgi_defer import DeferMiddleware, TooManyWaitingError, background, defer
from wsgi_defer._calls.waiting_room import WaitingRoom

from ...helpers.client import get, make_environ, text_app


def start(app):
    """A request whose response is not closed: its calls wait."""
    body = app(make_environ(), lambda status, headers: None)
    list(body)
    return body


def room_of(app):
    return app.options.room._waiting


@pytest.mark.promise("S14")
def test_over_the_limit_defer_raises(ran):
    """Over all requests; and there is room again when calls have begun."""
    refused = []

    def view():
        try:
            defer(ran.append, 1)
        except TooManyWaitingError as error:
            refused.append(error)

    app = DeferMiddleware(text_app(view), max_waiting=2)
    first, second, third = start(app), start(app), start(app)
    assert [error.limit for error in refused] == [2]
    assert "2 deferred calls already wait in this process" in str(refused[0])
    assert not hasattr(third, "close")  # nothing was deferred
    first.close()
    fourth = start(app)
    for body in (second, fourth):
        body.close()
    assert len(refused) == 1
    assert ran == [1, 1, 1]
    assert room_of(app) == {}


def test_over_the_limit_the_oldest_is_dropped(ran, caplog):
    """It is lost, by name; the new one runs."""
    app = DeferMiddleware(
        text_app(lambda: defer(ran.append, len(ran)).named(f"call {len(ran)}")),
        max_waiting=1,
        when_full="drop",
    )
    first, second = start(app), start(app)
    first.close()
    second.close()
    assert len(ran) == 1
    assert "call 0 lost: dropped, as the oldest of 1 that wait" in caplog.text
    assert room_of(app) == {}


def test_every_end_makes_room(ran):
    """Failed, skipped, cancelled, unwanted, dropped by the server."""

    def view():
        defer(int, "x")
        defer(int).cancel()
        defer(int).on_failure()
        defer(int).when(lambda outcome: 1 / 0)
        defer(int).named("same")
        defer(int).named("same")

    app = DeferMiddleware(text_app(view), max_waiting=6)
    get(app)
    assert room_of(app) == {}
    app = DeferMiddleware(text_app(lambda: defer(int)), max_waiting=6)
    body = app(make_environ(), lambda status, headers: None)
    del body
    gc.collect()
    assert background.join(10)
    assert room_of(app) == {}


def test_a_call_in_a_scope_that_is_gone():
    """There is nothing to drop then, and still room for the new one."""
    room = WaitingRoom(1, drop_oldest=True)

    class Gone:
        pending = True

    scope = Gone()
    room.admit(Gone(), scope)
    del scope
    gc.collect()
    room.admit(Gone(), Gone())
    assert len(room._waiting) == 1
    room._waiting.clear()
    room._drop_oldest()  # another thread was quicker


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_waiting": 0}, "max_waiting must be at least 1, not 0"),
        ({"when_full": "wait"}, "when_full is 'raise' or 'drop', not 'wait'"),
        ({"when_busy": True}, "when_busy is 'inline' or 'thread', not True"),
        ({"time_limit": 0}, "time_limit takes seconds, more than 0, not 0"),
        ({"slow_after": -1}, "slow_after takes seconds, more than 0, not -1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    """They are refused when the app is wrapped."""
    with pytest.raises(ValueError, match=message):
        DeferMiddleware(text_app(int), **options)


def test_a_dropped_stream_makes_room(ran):
    """Its calls run, as without a limit, and its place is free."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1).always()
        yield b"x"

    app = DeferMiddleware(app, max_waiting=2)
    for _ in range(5):
        body = iter(app(make_environ(), lambda status, headers: None))
        next(body)
        del body
        gc.collect()
        assert background.join(10)
    assert ran == [1] * 5
    assert room_of(app) == {}
