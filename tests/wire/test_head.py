"""A middleware that notes the status when ``start_response`` is called, as tracers do,
is called while the framework's context stands, though calls are pending."""

from __future__ import annotations

import json

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from . import servers
from .client import Connection
from .test_workers import events

MODULE = """
from contextvars import ContextVar
from tests.wire.app import log
from wsgi_defer import DeferMiddleware, defer

context = ContextVar("context", default=None)

def framework(environ, start_response):
    shape = environ["PATH_INFO"].strip("/")
    token = context.set("stands")
    try:
        defer(log, shape, "call")
        status = "204 No Content" if shape == "empty" else "200 OK"
        length = [("Content-Length", "5")] if shape == "length" else []
        start_response(status, length)
        parts = [] if shape == "empty" else [b"hel", b"lo"]
        return iter(parts) if shape == "stream" else parts
    finally:
        context.reset(token)

deferring = DeferMiddleware(framework)

def app(environ, start_response):
    shape = environ["PATH_INFO"].strip("/")

    def noting(status, headers, *exc_info):
        log(shape, "status", context=context.get())
        return start_response(status, headers, *exc_info)

    return deferring(environ, noting)
"""


@pytest.fixture(
    scope="module",
    params=["sync", "gthread", "gevent", "sync-ours", "gthread-ours", "gevent-ours",
            "20-sync", "23-gthread"],
)  # fmt: skip
def server(request):
    """gunicorn, with that middleware."""
    setup = request.param
    if missing := servers.SETUPS[f"gunicorn-{setup}"].missing():
        pytest.skip(f"{setup}: {missing} is not installed: make services")
    server = servers.Server()
    (server.root / "traced.py").write_text(MODULE)
    servers.gunicorn(
        server, setup.removesuffix("-ours").rpartition("-")[2],
        version={"20": "20.1.0", "23": "23.0.0"}.get(setup[:2]),
        ours=setup.endswith("ours"), app="traced:app",
        options=["--pythonpath", str(server.root)],
    )  # fmt: skip
    yield server
    server.stop()


@pytest.mark.parametrize("shape", ["length", "list", "stream", "empty"])
def test_the_context_stands(server, shape):
    """A length is not added past that middleware, which might change the body."""
    with Connection(server) as connection:
        connection.send("GET", f"/{shape}", "HTTP/1.1", "Connection: close")
        answer = connection.read_to_eof()
    assert (b"Content-Length: 5" in answer) is (shape == "length")
    assert (b"chunked" in answer) is (shape in ("list", "stream"))
    until(lambda: events(server, shape) == ["status", "call"],
          server.output.read_text, OF_PROCESSES)  # fmt: skip
    [status, _] = (server.root / f"{shape}.log").read_text().splitlines()
    assert json.loads(status)["context"] == "stands"
