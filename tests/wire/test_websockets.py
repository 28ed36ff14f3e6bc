"""A view that serves its connection itself and ends by ``StopIteration``, as flask-sock
does under gunicorn."""

from __future__ import annotations

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from . import servers
from .client import Connection
from .test_workers import events

MODULE = """
from tests.wire.app import log
from wsgi_defer import DeferMiddleware, defer

def application(environ, start_response):
    defer(log, "socket", "call")
    defer(log, "socket", "failed").on_failure()
    head = b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n"
    environ["gunicorn.socket"].sendall(head + b"hi")
    raise StopIteration

app = DeferMiddleware(application)
"""


@pytest.mark.parametrize(
    "setup",
    ["sync", "gthread", "gevent", "sync-ours", "gthread-ours", "gevent-ours",
     "20-gthread", "23-gthread"],
)  # fmt: skip
def test_stop_iteration(setup):
    """The connection is closed, nothing is logged, and the call runs."""
    version = {"20": "20.1.0", "23": "23.0.0"}.get(setup[:2])
    name = "gunicorn-" + setup
    if missing := servers.SETUPS[name].missing():
        pytest.skip(f"{name}: {missing} is not installed: make services")
    worker = setup.removesuffix("-ours").rpartition("-")[2]
    server = servers.Server()
    try:
        (server.root / "socket_app.py").write_text(MODULE)
        servers.gunicorn(
            server, worker, version=version, ours=setup.endswith("ours"),
            app="socket_app:app", options=["--pythonpath", str(server.root)],
        )  # fmt: skip
        with Connection(server) as connection:
            connection.send("GET", "/", "HTTP/1.1", "Upgrade: websocket")
            assert connection.read_to_eof().endswith(b"\r\n\r\nhi")
        until(
            lambda: events(server, "socket") == ["call"],
            server.output.read_text, OF_PROCESSES,
        )  # fmt: skip
        assert "rror" not in server.output.read_text()
    finally:
        server.stop()
