"""before_response(): held until the response starts, and only for a success."""

from __future__ import annotations

import io
import sys

import pytest

from wsgi_defer import DeferMiddleware, ResponseStartedError, before_response, defer

from ...helpers.client import Reply, get, make_environ, text_app


def fail():
    raise ValueError("the broker is down")


def test_it_runs_before_the_response_starts(ran):
    """The server hears of the response after the call has run."""

    class Server(Reply):
        def start_response(self, status, headers, exc_info=None):
            ran.append(status)
            return super().start_response(status, headers, exc_info)

    def view():
        before_response(ran.append, "held")
        defer(ran.append, "deferred")

    app = DeferMiddleware(text_app(view))
    app(make_environ(), Server().start_response).close()
    assert ran == ["held", "200 OK", "deferred"]


@pytest.mark.parametrize("status", ["400 Bad", "503 Down", "nonsense"])
def test_never_for_a_failure(ran, status):
    """A status of 400 or above discards the call; the response is the app's."""
    environ = make_environ()
    app = text_app(lambda: before_response(ran.append, 1), status)
    reply = get(DeferMiddleware(app), environ=environ)
    assert (reply.status, reply.body, ran) == (status, b"hello", [])
    assert environ["wsgi_defer.scope"].skipped == 1


def test_never_if_the_app_raises(ran):
    """Not even if it had started a response before."""

    def app(environ, start_response):
        before_response(ran.append, 1)
        start_response("200 OK", [])
        raise LookupError

    with pytest.raises(LookupError):
        get(DeferMiddleware(app))
    assert ran == []


def test_never_if_the_status_changes(ran):
    """An app that takes its status back with exc_info ends in a failure."""

    def app(environ, start_response):
        before_response(ran.append, 1)
        start_response("200 OK", [("X", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [("X", "2")], sys.exc_info())
        return [b"oops"]

    reply = get(DeferMiddleware(app))
    assert (reply.status, reply.headers, reply.starts) == ("500 Oops", [("X", "2")], 2)
    assert ran == []


def list_app(environ, start_response):
    before_response(fail)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def late_app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    before_response(fail)
    return [b"hello"]


def generator_app(environ, start_response):
    before_response(fail)
    start_response("200 OK", [("Content-Length", "5")])
    yield b"hel"
    yield b"lo"


def empty_generator_app(environ, start_response):
    before_response(fail)
    start_response("200 OK", [("Content-Length", "0")])
    yield from ()


def write_app(environ, start_response):
    before_response(fail)
    write = start_response("200 OK", [("Content-Length", "5")])
    write(b"hel")
    write(b"lo")
    return []


@pytest.mark.parametrize(
    "app", [list_app, late_app, generator_app, empty_generator_app, write_app]
)
def test_if_it_raises_the_client_gets_a_503(ran, caplog, app):
    """Plain, whatever shape the app's response has; no promise is made."""

    def around(environ, start_response):
        defer(ran.append, "success")
        defer(ran.append, "failure").on_failure()
        defer(int).when(lambda outcome: ran.append(outcome.status))
        return app(environ, start_response)

    if app is not late_app:
        around = DeferMiddleware(around)
    else:
        around = DeferMiddleware(late_app)
    reply = get(around)
    assert reply.status == "503 Service Unavailable"
    assert reply.body == b"Service Unavailable\n"
    assert dict(reply.headers)["Content-Length"] == str(len(reply.body))
    assert ran == ([] if app is late_app else ["failure", 503])
    assert (
        "before_response call tests.unit._calls.test_before_response.fail failed"
        in caplog.text
    )


def test_503_for_head_has_no_body():
    """HEAD gets the status and the length only."""
    reply = get(DeferMiddleware(list_app), environ=make_environ(REQUEST_METHOD="HEAD"))
    assert (reply.status, reply.body) == ("503 Service Unavailable", b"")


def test_503_still_closes_the_apps_body(ran):
    """The app's iterable is not iterated, and closed once."""

    class Body:
        def __iter__(self):
            ran.append("iterated")
            return iter([b"x"])

        def close(self):
            ran.append("closed")

    def app(environ, start_response):
        before_response(fail)
        start_response("200 OK", [])
        return Body()

    assert get(DeferMiddleware(app)).status.startswith("503")
    assert ran == ["closed"]


def test_calls_after_the_failing_one_do_not_run(ran):
    """The first failure decides."""

    def view():
        before_response(ran.append, 1)
        before_response(fail)
        before_response(ran.append, 2)

    environ = make_environ()
    get(DeferMiddleware(text_app(view)), environ=environ)
    scope = environ["wsgi_defer.scope"]
    assert ran == [1]
    assert (scope.finished, scope.failed, scope.skipped) == (1, 1, 1)


def test_names_and_cancelling(ran):
    """A held call has a name and can be cancelled."""

    def view():
        before_response(ran.append, 1).named("x")
        before_response(ran.append, 2).named("x")
        before_response(ran.append, 3).cancel()

    get(DeferMiddleware(text_app(view)))
    assert ran == [2]


def test_too_late_in_a_streaming_body(ran):
    """After the first byte it cannot be kept, so it is refused."""

    def app(environ, start_response):
        start_response("200 OK", [])
        before_response(ran.append, "in time")
        yield b"1"
        with pytest.raises(ResponseStartedError, match="before the first byte"):
            before_response(ran.append, "late")
        yield b"2"

    assert get(DeferMiddleware(app)).body == b"12"
    assert ran == ["in time"]


@pytest.mark.parametrize("body", [[b"no close()"], io.BytesIO(b"close()")])
def test_refused_by_the_server(body):
    """What the server says to the held start_response reaches it as an app's error,
    and the app's body is closed."""

    def app(environ, start_response):
        defer(int)
        start_response("200 OK", [("X", "not a header")])
        return body

    def start_response(status, headers, exc_info=None):
        raise AssertionError(headers)

    with pytest.raises(AssertionError, match="not a header"):
        DeferMiddleware(app)(make_environ(), start_response)
    assert getattr(body, "closed", True)
