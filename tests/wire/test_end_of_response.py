"""More of the end of the response than the table has, on set-ups that close.

Real servers, raw sockets. The call is held at a gate until the client has seen the
end of the stream, see app.py. Here are a held call that fails, one request after the
other, and an upload; test_table.py has all other shapes of a response.
"""

from __future__ import annotations

import itertools
import json
import socket

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from . import servers
from .client import Connection, parse

SETUPS = ["gunicorn-sync", "gunicorn-sync-tls", "gunicorn-sync-unix",
          "gunicorn-23-sync", "gunicorn-20-sync", "gunicorn-sync-ours",
          "gunicorn-20-sync-ours", "werkzeug", "werkzeug-threaded"]  # fmt: skip
NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=SETUPS)
def server(request):
    """Each server in turn, once for all tests."""
    with servers.running_or_skipped(request.param) as server:
        yield server


class Exchange:
    """One request and the log of what became of its calls."""

    def __init__(self, server, shape, method="GET"):
        self.server, self.method = server, method
        self.key = f"{shape}-{next(NUMBERS)}"
        self.target = f"/{shape}?key={self.key}"

    def send(self, connection):
        """Send the request on that connection."""
        connection.send(self.method, self.target)

    def log(self, event):
        """The lines of that event."""
        try:
            lines = (self.server.root / f"{self.key}.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        whole = (json.loads(line) for line in lines if line.endswith("}"))
        return [line for line in whole if line["event"] == event]

    def wait_for(self, event):
        """The first line of that event, when it is there."""
        return until(lambda: self.log(event), lambda: (
            f"{event!r} of {self.key}; the server said:\n"
            f"{self.server.output.read_text()}"
        ), OF_PROCESSES)[0]  # fmt: skip

    def open_gate(self):
        """Let the call go on."""
        (self.server.root / f"{self.key}.gate").touch()

    def finish(self):
        """Let the call end; look that it ran once."""
        self.open_gate()
        self.wait_for("done")
        assert len(self.log("begun")) == len(self.log("done")) == 1


@pytest.fixture
def exchange(server):
    """Make exchanges, and never leave a worker waiting at a gate."""
    made = []

    def make(*args, **kwargs):
        """A new exchange."""
        made.append(Exchange(server, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.open_gate()


@pytest.mark.parametrize("shape", ["refused", "refused_late"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_held_call_failed(exchange, server, shape, method):
    """The client gets one plain 503, and its end while the call waits."""
    one = exchange(shape, method=method)
    with Connection(server) as connection:
        one.send(connection)
        data = connection.read_to_eof()
    response = parse(data)
    assert response.status == 503
    assert response.head.lower().count("content-length") == 1
    assert response.body == (b"" if method == "HEAD" else b"Service Unavailable\n")
    one.finish()


def test_the_worker_serves_on(exchange, server):
    """After its calls, the worker takes the next request as ever."""
    for _ in range(5):
        one = exchange("list")
        with Connection(server) as connection:
            one.send(connection)
            assert parse(connection.read_to_eof()).body == b"hello"
        one.finish()


def test_an_upload_that_nobody_reads(exchange, server):
    """A request body that the app left unread does not break the response."""
    if server.name in ("gunicorn-20-sync-ours", "gunicorn-23-sync-ours"):
        pytest.skip("gunicorn up to 25 resets such a connection, with no calls, too")
    one = exchange("list", method="POST")
    with Connection(server) as connection:
        connection.send("POST", one.target, "HTTP/1.1", "Content-Length: 60000")
        connection.socket.sendall(b"u" * 60_000)
        if "werkzeug" in server.name:
            # It reads on for as long as the client may send, before any close().
            connection.socket.shutdown(socket.SHUT_WR)
        assert parse(connection.read_to_eof()).body == b"hello"
    one.finish()
