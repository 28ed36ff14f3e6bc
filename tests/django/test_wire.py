"""What a client sees: the middleware alone is as right as one around the WSGI app.

The whole table was measured once, beside ``DeferMiddleware`` in wsgi.py, with the same
result: gunicorn's sync, gthread and gevent and our workers, wsgiref, waitress, uWSGI,
bjoern, cheroot and granian.
"""

from __future__ import annotations

import http.client
import socket

import pytest

from ..helpers.waiting import PATIENCE, until
from .site import Site

VIEWS = """
import time
from pathlib import Path
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from wsgi_defer import current_scope, defer

def work(name, scope):
    while not Path("go").exists():
        time.sleep(0.01)
    outcome = scope.outcome
    with Path("notes").open("a") as notes:
        notes.write(f"{name} {outcome.status} {outcome.delivered}\\n")

def call(name):
    defer(work, name, current_scope()).always()

def page(request):
    call("page")
    return HttpResponse("x" * 100)

def empty(request):
    call("empty")
    return HttpResponse(status=204)

def redirect(request):
    call("redirect")
    return HttpResponse(status=302, headers={"Location": "/plain"})

def error(request):
    call("error")
    raise ValueError("no")

def stream(request):
    def items():
        yield "y" * 100
        call("stream")
        yield "y" * 100
    return StreamingHttpResponse(items())

def file(request):
    call("file")
    return FileResponse(open("manage.py", "rb"))

def big(request):
    call("big")
    return HttpResponse(b"x" * 30_000_000)

def plain(request):
    return HttpResponse("plain")
"""
SHAPES = {"page": 200, "empty": 204, "redirect": 302, "error": 500, "stream": 200,
          "file": 200}  # fmt: skip
NAMES = [*SHAPES, "big", "plain"]
URLS = [f"path('{name}', views.{name})" for name in NAMES]
GUNICORN = ["-m", "gunicorn", "wsgi:application"]
CLOSING = {
    "sync": [*GUNICORN, "--bind"],
    "SyncWorker": [*GUNICORN, "-k", "wsgi_defer.gunicorn.SyncWorker", "--bind"],
}
KEEPING = {
    "gthread": [*GUNICORN, "-k", "gthread", "--threads", "3", "--bind"],
    "ThreadWorker": [*GUNICORN, "-k", "wsgi_defer.gunicorn.ThreadWorker", "--threads",
                     "3", "--bind"],
    "runserver": ["manage.py", "runserver", "--noreload"],
}  # fmt: skip


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path, views=VIEWS, urls=URLS)


def notes(site):
    path = site.root / "notes"
    return path.read_text().splitlines() if path.exists() else []


def finish(site, *lines):
    """Let the calls end, and compare what they knew."""
    assert notes(site) == []
    (site.root / "go").touch()
    until(lambda: notes(site) == list(lines), lambda: (notes(site), site.output))
    (site.root / "go").unlink()
    (site.root / "notes").unlink()


@pytest.mark.parametrize("worker", CLOSING)
def test_the_end_of_the_stream(site, worker):
    """A client that waits for it has it before the call ends, in the worker itself."""
    with site.served(CLOSING[worker]) as server:
        for shape, status in SHAPES.items():
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.settimeout(PATIENCE)
                client.sendall(f"GET /{shape} HTTP/1.0\r\n\r\n".encode())
                reply = b"".join(iter(lambda: client.recv(65536), b""))
            assert reply.split()[1] == str(status).encode()
            finish(site, f"{shape} {status} True")


@pytest.mark.promise("S14")
@pytest.mark.parametrize("server_name", KEEPING)
def test_the_next_request(site, server_name):
    """On the same connection, it does not wait for the call."""
    with site.served(KEEPING[server_name]) as server:
        for shape, status in SHAPES.items():
            client = http.client.HTTPConnection("127.0.0.1", server.port, PATIENCE)
            client.request("GET", f"/{shape}")
            reply = client.getresponse()
            assert reply.status == status
            reply.read()
            client.request("GET", "/plain")
            assert client.getresponse().read() == b"plain"
            client.close()
            finish(site, f"{shape} {status} True")


@pytest.mark.promise("S6", "N12")
@pytest.mark.parametrize("worker", CLOSING)
def test_a_client_that_leaves(site, worker):
    """The call runs, and knows."""
    with site.served(CLOSING[worker]) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            client.recv(100)
        finish(site, "big 200 False")
