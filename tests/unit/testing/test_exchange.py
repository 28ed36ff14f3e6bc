"""exchange(): it does as a server does."""

from __future__ import annotations

import os
import signal
import sys
from io import BytesIO

import flask
import pytest

from wsgi_defer import DeferMiddleware, before_response, defer, deferring
from wsgi_defer.flask import Defer
from wsgi_defer.testing import captured, eager, exchange

from ...helpers.client import text_app


def fail():
    """A call that fails."""
    raise LookupError("it")


def test_what_the_client_gets():
    """Status, headers, body."""
    reply = exchange(DeferMiddleware(text_app(lambda: None, "201 Made it")))
    assert (reply.status, reply.reason, reply.body) == (201, "Made it", b"hello")
    assert reply.headers["content-type"] == "text/plain"
    assert (reply.error, reply.outcome, reply.calls) == (None, None, ())


def test_what_becomes_of_calls(ran):
    """All ends, in the order of registration."""

    def view():
        defer(len, "four").named("length")
        before_response(ran.append, "before")
        defer(fail)
        defer(ran.append, 1).on_failure()
        with deferring():
            defer(ran.append, "of its own")

    reply = exchange(DeferMiddleware(text_app(view)))
    assert [call.became for call in reply.calls] == [
        "finished", "finished", "failed", "skipped",
    ]  # fmt: skip
    length, before, failed, skipped = reply.calls
    assert (length.fn, length.args, length.name, length.value) == (
        len, ("four",), "length", 4,
    )  # fmt: skip
    assert (before.kind, failed.kind) == ("before_response", "deferred")
    assert isinstance(failed.error, LookupError)
    assert skipped.why.startswith("the status is 200")
    assert reply.outcome.ok
    assert reply.outcome.delivered
    assert length.outcome == reply.outcome


@pytest.mark.parametrize("inline", [None, False])
def test_an_app_that_raises(ran, inline):
    """The client gets a 500, and the calls have run."""

    def view():
        defer(ran.append, 1)
        defer(ran.append, 2).on_failure()
        fail()

    reply = exchange(DeferMiddleware(text_app(view), inline=inline))
    assert (reply.status, reply.body, ran) == (500, b"", [2])
    assert isinstance(reply.error, LookupError)
    assert reply.outcome.error is reply.error
    assert [call.became for call in reply.calls] == ["skipped", "finished"]


def test_a_body_that_raises(ran):
    """In the middle, when the head is out."""

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"half"
        defer(ran.append, 1).on_failure()
        fail()

    reply = exchange(DeferMiddleware(app))
    assert (reply.status, reply.body, ran) == (200, b"half", [1])
    assert isinstance(reply.error, LookupError)


def test_a_head_that_is_replaced():
    """While it is not out, as PEP 3333 says."""

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b""
        try:
            fail()
        except LookupError:
            start_response("500 Error", [("X", "y")], sys.exc_info())
        yield b"page"
        try:
            fail()
        except LookupError:
            start_response("500 Late", [], sys.exc_info())

    reply = exchange(app)
    assert (reply.status, reply.reason, reply.body) == (500, "Error", b"page")
    assert isinstance(reply.error, LookupError)


@pytest.mark.parametrize("starts", [0, 2])
def test_an_app_that_breaks_the_rules(starts):
    """It is told."""

    def app(environ, start_response):
        for _ in range(starts):
            start_response("200 OK", [])
        return [b"x"]

    reply = exchange(app)
    assert reply.status == 500
    assert "start_response()" in str(reply.error)


def test_write():
    """What start_response() returns."""

    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        return [b"two"]

    assert exchange(DeferMiddleware(app)).body == b"one two"


@pytest.mark.parametrize(
    ("leaves_after", "body", "delivered"),
    [
        (0, b"", False),
        (2, b"he", False),
        (5, b"hello", False),
        (7, b"hello w", False),
        (11, b"hello world", True),
        (99, b"hello world", True),
        (None, b"hello world", True),
    ],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_a_client_that_leaves(ran, leaves_after, body, delivered, kind):
    """The calls run, and know."""

    def app(environ, start_response):
        defer(ran.append, 1)
        defer(ran.append, 2).when(lambda outcome: outcome.delivered)
        start_response("200 OK", [])
        return kind([b"hello", b" world"])

    reply = exchange(DeferMiddleware(app), leaves_after=leaves_after)
    assert (reply.status, reply.body, reply.error) == (200, body, None)
    assert reply.outcome.delivered is delivered
    assert ran == ([1, 2] if delivered else [1])


def test_its_environ():
    """That of a server, with what the test adds."""
    app = flask.Flask("shop")

    @app.route("/<path:path>", methods=["GET", "POST"])
    def index(path):
        request = flask.request
        data = request.get_data(as_text=True)
        return [request.method, path, request.args.get("q"), data]

    def ask(path, **environ):
        return flask.json.loads(exchange(app, path, environ=environ).body)

    assert ask("/a%20é?q=1%202") == ["GET", "a é", "1 2", ""]
    posted = ask("/b", REQUEST_METHOD="POST", CONTENT_LENGTH="4",
                 **{"wsgi.input": BytesIO(b"data")})  # fmt: skip
    assert posted == ["POST", "b", None, "data"]
    plain = text_app(lambda: None)  # which knows nothing of HEAD
    assert exchange(plain, environ={"REQUEST_METHOD": "HEAD"}).body == b""


def test_a_file(ran, tmp_path):
    """It goes through the server's file wrapper."""
    app = flask.Flask("shop")
    Defer(app)
    (tmp_path / "file").write_bytes(b"x" * 20000)

    @app.get("/")
    def index():
        defer(ran.append, 1).when(lambda outcome: outcome.delivered)
        return flask.send_file(tmp_path / "file")

    assert len(exchange(app).body) == 20000
    assert ran == [1]
    assert exchange(app, leaves_after=100).body == b"x" * 100
    assert ran == [1]


def test_an_environ_that_is_copied(ran):
    """A middleware of the app's may do that."""
    inner = DeferMiddleware(text_app(lambda: defer(ran.append, 1)))

    def app(environ, start_response):
        return inner(dict(environ), start_response)

    reply = exchange(app)
    assert [call.became for call in reply.calls] == ["finished"]


def test_requests_inside(ran):
    """Each has its own calls."""
    inner = DeferMiddleware(text_app(lambda: defer(ran.append, "inner")))

    def view():
        defer(ran.append, "outer")
        assert exchange(inner).calls[0].args == ("inner",)

    reply = exchange(DeferMiddleware(text_app(view)))
    assert [call.args for call in reply.calls] == [("outer",)]


def test_term_in_the_middle(ran):
    """The handler of a signal ends the calls, and the reply says which."""

    def stop(number, frame):
        sys.exit(0)

    def view():
        defer(ran.append, 1)
        defer(os.kill, os.getpid(), signal.SIGTERM).named("interrupted")
        defer(ran.append, 2).named("rest")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        reply = exchange(DeferMiddleware(text_app(view)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ran == [1]
    assert [(call.name, call.became) for call in reply.calls] == [
        (None, "finished"), ("interrupted", "lost"), ("rest", "lost"),
    ]  # fmt: skip
    assert isinstance(reply.error, SystemExit)
    assert (reply.status, reply.body) == (200, b"hello")


def test_ctrl_c():
    """It is the developer's, and goes up."""

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exchange(DeferMiddleware(text_app(lambda: defer(stop))))


def test_inside_of_blocks(ran):
    """They hold for it."""
    app = DeferMiddleware(text_app(lambda: defer(ran.append, 1).named("call")))
    with captured() as calls:
        reply = exchange(app)
        [call] = reply.calls
        assert (call.name, call.became) == ("call", "captured")
        assert (reply.outcome, call.outcome) == (calls[0].outcome, calls[0].outcome)
    with eager():
        assert exchange(app).calls[0].became == "finished"
    assert ran == [1]


def test_a_response_that_the_app_never_closes(ran):
    """Nothing is known of its calls."""
    inner = DeferMiddleware(text_app(lambda: defer(ran.append, 1)))

    def app(environ, start_response):
        kept.append(inner(environ, start_response))
        return list(kept[0])

    kept = []
    reply = exchange(app)
    assert [call.became for call in reply.calls] == ["pending"]
    assert reply.outcome is None
    kept[0].close()
    assert ran == [1]
