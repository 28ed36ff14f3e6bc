"""A middleware outside of ours: one that closes the body before all of it is sent, and
two that stand between us and the server, as those of Datadog and Sentry do."""

from __future__ import annotations

import http.client
import sys

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from . import servers
from .cell import BODIES, HEADS
from .client import PATIENCE
from .table import measure_one
from .test_workers import events

OUTSIDE = """
from tests.wire.app import log
from wsgi_defer import DeferMiddleware, defer

def application(environ, start_response):
    defer(log, environ["PATH_INFO"].strip("/"), "call")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (part for part in (b"hel", b"lo"))

DEFAULT = DeferMiddleware(application)
INLINE = DeferMiddleware(application, inline=True)

def reads_to_the_end(environ, start_response):
    body = DEFAULT(environ, start_response)
    yield from body
    body.close()
    yield b" and more"

def collects(environ, start_response):
    body = INLINE(environ, start_response)
    parts = list(body)
    body.close()
    return [*parts, b" and more"]

def app(environ, start_response):
    chosen = {"/collects": collects}.get(environ["PATH_INFO"], reads_to_the_end)
    return chosen(environ, start_response)

if __name__ == "__main__":
    from werkzeug.serving import make_server
    server = make_server("127.0.0.1", 0, app)
    print(f"Listening at: http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()
"""


@pytest.fixture(scope="module", params=["gunicorn", "gunicorn with ours", "werkzeug"])
def server(request):
    """A server that closes each connection, with that middleware."""
    server = servers.Server()
    module = server.root / "outside.py"
    module.write_text(OUTSIDE)
    if request.param == "werkzeug":
        found = server.run([sys.executable, str(module)], r"Listening at: (\S+)\s",
                           {"PYTHONPATH": str(servers.HOME)})  # fmt: skip
        server.listens_at(found.group(1))
    else:
        ours = request.param == "gunicorn with ours"
        servers.gunicorn(server, ours=ours, app="outside:app",
                         options=["--pythonpath", str(server.root)])  # fmt: skip
    yield server
    server.stop()


@pytest.mark.parametrize("which", ["reads_to_the_end", "collects"])
def test_all_of_the_response_arrives(server, which):
    """Its end is not cut off, nor what that middleware adds; the call runs once."""
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    connection.request("GET", f"/{which}")
    assert connection.getresponse().read() == b"hello and more"
    connection.close()
    until(
        lambda: events(server, which) == ["call"], server.output.read_text, OF_PROCESSES
    )


@pytest.fixture(
    scope="module",
    params=[
        "gunicorn-20-sync", "gunicorn-sync", "gunicorn-sync-ours",
        "gunicorn-gthread", "gunicorn-gevent", "uwsgi-http", "uwsgi-threads",
        "werkzeug", "wsgiref", "waitress", "cheroot", "gevent-pywsgi", "bjoern",
        "granian", "a2wsgi-uvicorn", "mod_wsgi-daemon",
    ],
)  # fmt: skip
def iterated(request):
    """A server whose app is in a middleware that closes what ``iter()`` gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WIRE_OUTSIDE", "iterated")
        with servers.running_or_skipped(request.param) as server:
            yield server


@pytest.mark.parametrize("shape", [*BODIES, *HEADS])
def test_closed_by_what_iter_gives(iterated, shape):
    """Its calls run at the end, once; the app's body is closed once."""
    if shape in iterated.setup.absent:
        pytest.skip(iterated.setup.absent[shape])
    key = f"{shape}-iterated"
    (iterated.root / f"{key}.gate").touch()
    connection = http.client.HTTPConnection(*iterated.address, timeout=PATIENCE)
    method = "HEAD" if shape in HEADS else "GET"
    connection.request(method, f"/{HEADS.get(shape, shape)}?key={key}")
    body = connection.getresponse().read()
    connection.close()
    assert body == (b"" if shape in HEADS else BODIES[shape])
    wanted = ["closed"] * (shape == "iterator") + ["begun", "done", "outcome"]
    until(
        lambda: events(iterated, key) == wanted, iterated.output.read_text, OF_PROCESSES
    )


@pytest.fixture(
    scope="module", params=["gunicorn-sync", "gunicorn-20-sync", "werkzeug"]
)
def replaced(request):
    """A server with a middleware that passes on a ``start_response`` of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WIRE_OUTSIDE", "own_start_response")
        with servers.running_or_skipped(request.param) as server:
            yield server


@pytest.mark.parametrize("protocol", servers.ALL)
@pytest.mark.parametrize("shape", [*BODIES, *HEADS])
def test_another_start_response(replaced, shape, protocol):
    """The calls run where they run without it: in the thread of the request, as the
    connection can be half-closed."""
    cell = measure_one(replaced, replaced.name, shape, protocol)
    assert str(cell) == "ok", cell.notes
    assert [each["main"] for each in cell.begun] == [True]
