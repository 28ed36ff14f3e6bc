"""What a call sees of its request is its own, and lasts."""

from __future__ import annotations

import io
import sys
import types

import pytest
from gunicorn.http.wsgi import Response
from werkzeug.wrappers import Request

from wsgi_defer import DeferMiddleware, background, defer
from wsgi_defer._servers.cheroot import CHEROOT
from wsgi_defer._servers.gunicorn import GUNICORN
from wsgi_defer._servers.spent import GuardedInput
from wsgi_defer._servers.uwsgi import HOOK
from wsgi_defer.errors import DeferError

from ...helpers.client import get, make_environ


def read_of(body):
    """What reading it gives, or what the error says; of a request, its stream."""
    try:
        return getattr(body, "stream", body).read()
    except DeferError as error:
        return str(error)


def looking(seen, view=lambda environ: None):
    """An app whose call looks at the environ."""

    def look(environ):
        seen.append((dict(environ), read_of(environ["wsgi.input"])))

    def app(environ, start_response):
        view(environ)
        defer(look, environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    return app


def with_body(**more):
    """An environ with a body that is not read."""
    return make_environ(
        **{"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "4", **more,
           "wsgi.input": io.BytesIO(b"body")}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ({}, True),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, True),
        ({"CONTENT_LENGTH": ""}, True),  # HTTP/2 does not say
        ({"CONTENT_LENGTH": "0"}, False),
        ({"CONTENT_LENGTH": "", "REQUEST_METHOD": "GET"}, False),
        ({"REQUEST_METHOD": "GET"}, True),
    ],
)
def test_the_body_is_the_views(more, body):
    """A call is told so. Without a body there is nothing to say."""
    seen = []
    get(DeferMiddleware(looking(seen)), environ=with_body(**more))
    [(_, read)] = seen
    assert ("read it in the view" in str(read)) is body
    assert body or read == b""


def test_nothing_is_done_if_nothing_is_deferred():
    """The environ stays as the server made it."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return iter([b"1"])

    environ = with_body()
    before = dict(environ)
    get(DeferMiddleware(app), environ=environ)
    del environ["wsgi_defer.scope"]
    assert environ.pop("wsgi.response_finished") == []
    assert environ == before


@pytest.mark.parametrize(
    "read",
    [
        lambda body: body.readline(),
        lambda body: body.readlines(),
        lambda body: list(body),
        lambda body: next(body),
        lambda body: body.readinto(bytearray(1)),
        lambda body: body.read(1),
    ],
)
def test_every_way_to_read(read):
    """Not just ``read()``."""
    environ = with_body()
    get(DeferMiddleware(looking([])), environ=environ)
    with pytest.raises(DeferError, match="read it in the view"):
        read(environ["wsgi.input"])


@pytest.mark.parametrize("part", [0, 2])
def test_a_request_of_werkzeugs(part):
    """It keeps the stream; what the view has parsed is there."""
    seen, requests = [], []

    def call(request, parsed):
        seen.append((parsed.form["a"], read_of(request)))

    def app(environ, start_response):
        requests.append(request := Request(environ))
        if part:
            assert request.stream.read(part) == b"a="
        parsed = Request({**environ, "wsgi.input": io.BytesIO(b"a=1")})
        assert parsed.form["a"] == "1"
        environ["werkzeug.request"] = request
        defer(call, request, parsed)
        start_response("200 OK", [])
        return []

    environ = with_body(CONTENT_TYPE="application/x-www-form-urlencoded",
                        CONTENT_LENGTH="3")  # fmt: skip
    environ["wsgi.input"] = io.BytesIO(b"a=1")
    get(DeferMiddleware(app), environ=environ)
    [(value, read)] = seen
    assert value == "1"
    assert "read it in the view" in read


def test_the_error_log_of_mod_wsgi():
    """Its own expires; another server's lasts."""
    for more in ({}, {"mod_wsgi.version": (4, 9)}):
        seen, errors = [], io.StringIO()
        environ = make_environ(**more, **{"wsgi.errors": errors})
        get(DeferMiddleware(looking(seen)), environ=environ)
        assert background.join(10)
        assert seen[0][0]["wsgi.errors"] is (sys.stderr if more else errors)


def test_the_input_of_a_gunicorn_that_is_hidden():
    """Where nothing of it can be seen, the environ's input is spent all the same."""
    seen = []
    environ = with_body(**{"gunicorn.socket": None})
    get(DeferMiddleware(looking(seen)), environ=environ)
    assert background.join(10)
    assert "read it in the view" in str(seen)


def test_the_input_of_gunicorn():
    """What a framework keeps is spent; the worker gets the rest of the body."""
    from gunicorn.http.body import Body, LengthReader
    from gunicorn.http.unreader import IterUnreader

    body = Body(LengthReader(IterUnreader(iter([b"body"])), 4))
    kept_by_django = body.read
    response = Response.__new__(Response)
    response.req = types.SimpleNamespace(body=body)
    response.start_response = lambda status, headers: print
    response.headers_sent, response.response_length = True, None
    environ = make_environ(**{"gunicorn.socket": None, "wsgi.input": body,
                              "CONTENT_LENGTH": "4"})  # fmt: skip

    class Start:
        __self__ = response

        def __call__(self, status, headers):
            return print

    seen = []
    served = DeferMiddleware(looking(seen, lambda environ: body.read(1)))
    served(environ, Start()).close()
    assert background.join(10)
    assert "read it in the view" in seen[0][1]
    assert "read it in the view" in read_of(body)
    with pytest.raises(DeferError, match="read it in the view"):
        kept_by_django(1)
    assert response.req.body.read() == b"ody"


@pytest.fixture
def in_uwsgi(monkeypatch):
    """What stands for uWSGI."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    monkeypatch.setattr(HOOK, "_placed", True)


def test_the_environ_of_uwsgi(in_uwsgi):
    """It clears its own; the app and its calls have another, once."""
    seen, kept, reads = [], [], []
    server_input = io.BytesIO(b"body")

    def view(environ):
        kept.append(environ)
        environ["app.key"] = "new"
        assert environ["wsgi.input"].read(1) == b"b"
        assert environ["wsgi.input"].readline(1) == b"o"
        assert environ["wsgi.input"].readlines(1) == [b"dy"]
        assert list(environ["wsgi.input"]) == []
        assert environ["wsgi.input"].seekable()
        reads.append(environ["wsgi.input"].read)  # as Django does

    inner = DeferMiddleware(looking(seen, view))
    environ = {**with_body(), "uwsgi.version": b"2", "wsgi.input": server_input}
    body = DeferMiddleware(inner)(environ, lambda status, headers: print)
    assert environ["app.key"] == "new"  # for a middleware outside
    guard = kept[0]["wsgi.input"]
    assert isinstance(guard, GuardedInput)
    assert kept[0] is not environ
    body.close()
    environ.clear()
    assert background.join(10)
    [(looked, read)] = seen
    assert looked["PATH_INFO"] == "/"
    assert "read it in the view" in read
    assert "read it in the view" in read_of(guard)
    with pytest.raises(DeferError, match="read it in the view"):
        reads[0]()


def test_a_part_of_a_larger_request_in_uwsgi(in_uwsgi):
    """Its environ is made by the app, and is its own already."""
    parts = []

    def part(environ, start_response):
        parts.append(environ)
        return []

    inner = DeferMiddleware(part)

    def app(environ, start_response):
        start_response("200 OK", [])
        return inner({**environ, "PATH_INFO": "/part"}, start_response)

    get(DeferMiddleware(app), environ=with_body())
    assert parts[0]["PATH_INFO"] == "/part"
    assert isinstance(parts[0]["wsgi.input"], GuardedInput)


def test_what_is_not_this_requests():
    """It is left alone: a body that is dropped during another request, and a
    start_response of somebody else's."""
    response = Response.__new__(Response)
    response.sock, response.req = object(), types.SimpleNamespace(body="its")
    start = types.SimpleNamespace(__self__=response)
    GUNICORN.leave_request(with_body(**{"gunicorn.socket": None}), start)
    assert response.req.body == "its"
    CHEROOT.forget_headers(print)


def test_a_guarded_input_is_read_line_by_line():
    """As the server's own."""
    assert next(GuardedInput(io.BytesIO(b"one\ntwo"))) == b"one\n"
