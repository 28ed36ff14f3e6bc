"""The head goes out inside the app's call, for whoever notes the status there."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from gunicorn.http.wsgi import Response

from wsgi_defer import DeferMiddleware, background, before_response, defer

from ...helpers.client import make_environ

LENGTH = [("Content-Length", "2")]


def serve(start_response, headers=(), *, status="200 OK", body=(b"h", b"i"), hold=None,
          write=(), **environ):  # fmt: skip
    """Whether ``start_response`` was called by the time the app's call of it returned;
    and the body of the response."""
    inside = []

    def app(environ, respond):
        defer(int)
        if hold is not None:
            before_response(hold)
        written = respond(status, list(headers))
        inside.append(bool(start_response.seen))
        for item in write:
            written(item)
        return list(body) if isinstance(body, tuple) else body

    steps = DeferMiddleware(app)(make_environ(**environ), start_response)
    read = list(steps)
    steps.close()
    return inside == [True], read


class Start:
    """An unknown server's, which notes what it gets."""

    def __init__(self):
        self.seen = []

    def __call__(self, status, headers, exc_info=None):
        self.seen.append((status, headers))
        return print


class Gunicorn(Response):
    """gunicorn's response, which sends nothing."""

    def __init__(self, method="GET"):
        request = SimpleNamespace(version=(1, 1), method=method, trailers=[])
        super().__init__(request, None, SimpleNamespace())
        self.written = []

    @property
    def seen(self):
        """Whether it has the head."""
        return self.status is not None

    def __call__(self, *args):
        """A ``start_response`` that hides this object."""
        return self.start_response(*args)

    def write(self, data):
        """Send the head."""
        self.headers_sent = True


Gunicorn.__module__ = Response.__module__


def in_gunicorn(response, start_response, *args, **options):
    """Serve it from a frame of gunicorn's, if it is to be found there."""
    space = {"__name__": "gunicorn.workers.sync"}
    exec("def handle_request(resp, serve): return serve()", space)
    environ = {"gunicorn.socket": None, "SERVER_PROTOCOL": "HTTP/1.1"}
    options = {**environ, "wsgi.multithread": True, **options}
    return space["handle_request"](
        response, partial(serve, start_response, *args, **options)
    )


@pytest.mark.parametrize(
    "more",
    [
        {"headers": LENGTH},
        {"headers": [("transfer-encoding", "identity")]},
        {"status": "204 No Content", "body": ()},
        {"status": "304 Not Modified", "body": ()},
        {"body": (), "REQUEST_METHOD": "HEAD"},
        {"headers": LENGTH, "body": iter([b"hi"])},
    ],
)
def test_at_once_if_no_length_is_missing(more):
    """With calls pending, on any server, also on an unknown one."""
    start = Start()
    assert serve(start, **more)[0]
    assert len(start.seen) == 1
    assert start.seen[0][1] == list(more.get("headers", ()))


def test_what_is_not_a_list_of_headers():
    """Goes on as it is: the server says so to the app."""
    start = Start()
    assert serve(start, "ab")[0]
    assert start.seen == [("200 OK", ["a", "b"])]


def test_headers_that_can_be_read_once():
    """They are the server's to read: not a list, but some servers take them."""

    def app(environ, respond):
        defer(int)
        respond("200 OK", iter(LENGTH))
        return [b"hi"]

    start = Start()
    DeferMiddleware(app)(make_environ(), start).close()
    assert [(status, list(headers)) for status, headers in start.seen] == [
        ("200 OK", LENGTH)
    ]


def test_a_head_that_replaces_another():
    """The length is missing, or not, in the one that is sent."""
    response = Gunicorn()

    def app(environ, respond):
        defer(int)
        respond("200 OK", [])
        respond("204 No Content", [], (ValueError, ValueError(), None))
        return []

    space = {"__name__": "gunicorn.workers.sync"}
    exec("def handle_request(resp, serve): return serve()", space)
    environ = make_environ(**{"gunicorn.socket": None})
    space["handle_request"](
        response, partial(DeferMiddleware(app), environ, StartOf(response))
    )
    assert response.status == "204 No Content"
    assert response.headers == []


def test_held_for_calls_before_the_response(ran):
    """They may still make it a 503."""
    start = Start()
    assert serve(start, LENGTH, hold=partial(ran.append, start.seen.copy()))[0] is False
    assert ran == [[]]
    assert start.seen == [("200 OK", LENGTH)]


def test_held_for_a_length():
    """On a server that nobody knows, whose client might wait for the calls."""
    start = Start()
    assert serve(start, body=(b"h", b"i")) == (False, [b"h", b"i"])
    assert start.seen == [("200 OK", LENGTH)]


@pytest.mark.parametrize("hidden", [False, True])
def test_gunicorn_takes_a_length_later(hidden):
    """So its head is never held for one. Behind another start_response, none is added:
    that may be of a middleware which changes the body."""
    response = Gunicorn()
    start = response if hidden else StartOf(response)
    assert in_gunicorn(response, start) == (True, [b"h", b"i"])
    assert response.headers == ([] if hidden else LENGTH)
    assert response.response_length == (None if hidden else 2)
    assert response.chunked is hidden


class StartOf:
    """gunicorn's own ``start_response``."""

    def __init__(self, response):
        self.__self__ = response

    @property
    def seen(self):
        return self.__self__.seen

    def __call__(self, *args):
        return self.__self__.start_response(*args)


@pytest.mark.parametrize(
    ("more", "length"),
    [
        ({"body": iter([b"hi"])}, None),  # a stream
        ({"body": ("text",)}, None),  # gunicorn says so
        ({"write": [b"h"]}, None),  # the head is out
        ({"headers": [("Content-Length", "7")]}, 7),
    ],
)
def test_no_length_is_added(more, length):
    """If there is one, if none is known, or if it is too late."""
    response = Gunicorn()
    headers = more.pop("headers", ())
    assert in_gunicorn(response, StartOf(response), headers, **more)[0]
    assert response.response_length == length
    assert response.chunked is (length is None)
    assert len(response.headers) == len(headers)


def test_no_length_is_added_to_a_head_that_somebody_holds_back():
    """A middleware outside that collects the response; it adds one itself, maybe."""
    response, start = Gunicorn(), Start()
    assert in_gunicorn(response, start) == (True, [b"h", b"i"])
    assert response.headers == []
    assert response.response_length is None


def test_a_server_that_takes_no_head_back():
    """It gets none while calls may run before the response."""
    start = Start()
    assert serve(start, LENGTH, **{"asgi.scope": {}})[0] is False
    assert start.seen == [("200 OK", LENGTH)]


def test_the_503_has_no_header_of_the_app():
    """cheroot would send both."""

    class Gateway:
        remaining_bytes_out = None

        def __init__(self):
            self.req = SimpleNamespace(outheaders=[])

        def start_response(self, status, headers, exc_info=None):
            self.req.outheaders += headers
            self.remaining_bytes_out = int(headers[-1][1])
            return print

    gateway = Gateway()

    def app(environ, respond):
        defer(int)
        respond("200 OK", [("Set-Cookie", "session=secret"), *LENGTH])
        before_response(int, "no number")
        return [b"hi"]

    environ = make_environ(SERVER_SOFTWARE="Cheroot/11")
    DeferMiddleware(app)(environ, gateway.start_response).close()
    assert background.join(10)
    names = [name for name, _ in gateway.req.outheaders]
    assert names == ["Content-Type", "Content-Length"]
    assert gateway.remaining_bytes_out == len(b"Service Unavailable\n")


def test_a_call_before_the_response_that_comes_after_the_head():
    """The head has gone on, and is replaced if the call fails."""
    start = Start()

    def app(environ, respond):
        defer(int)
        respond("200 OK", LENGTH)
        before_response(int, "no number")
        return [b"hi"]

    body = DeferMiddleware(app)(make_environ(), start)
    assert [status for status, _ in start.seen] == ["200 OK", "503 Service Unavailable"]
    assert list(body) == [b"Service Unavailable\n"]
    body.close()
