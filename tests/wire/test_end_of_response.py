"""Whoever waits for the end of the response has it before the first call begins.

Real servers, raw sockets. The call is held at a gate until the client has seen the
end of the stream, see app.py. These are the details, on the set-ups that close each
connection; test_table.py has all the others, with fewer questions.
"""

from __future__ import annotations

import itertools
import json
import socket
import time

import pytest

from ..waiting import OF_PROCESSES, until
from . import servers
from .cell import BODIES
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

    def __init__(self, server, shape, method="GET", protocol="HTTP/1.1"):
        self.server, self.method, self.protocol = server, method, protocol
        self.key = f"{shape}-{next(NUMBERS)}"
        self.target = f"/{shape}?key={self.key}"

    def send(self, connection):
        """Send the request on that connection."""
        connection.send(self.method, self.target, self.protocol)

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


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("shape", BODIES)
def test_get(exchange, server, shape, protocol):
    """The whole body, its end, and the end of the stream, while the call waits."""
    one = exchange(shape, protocol=protocol)
    with Connection(server) as connection:
        one.send(connection)
        response = parse(connection.read_to_eof())
    assert response.body == BODIES[shape]
    assert not one.log("done")
    one.finish()
    outcome = one.wait_for("outcome")
    assert outcome["status"] == response.status
    assert outcome["delivered"]
    assert outcome["error"] == "NoneType"
    if shape.startswith("file") and server.setup.sendfile == "python":
        assert one.log("begun")[0]["sendfile"] == len(servers.FILE)
    if shape == "iterator":
        assert len(one.log("closed")) == 1


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("shape", ["list_length", "empty", "file_length"])
def test_head(exchange, server, shape, protocol):
    """The head, and the end of the stream."""
    one = exchange(shape, method="HEAD", protocol=protocol)
    with Connection(server) as connection:
        one.send(connection)
        data = connection.read_to_eof()
    assert parse(data).status in (200, 302)
    one.finish()


@pytest.mark.parametrize("shape", ["raise", "raise_late", "raise_first"])
def test_the_app_raised(exchange, server, shape):
    """The server's error page is out, and complete, while the call waits."""
    one = exchange(shape)
    with Connection(server) as connection:
        one.send(connection)
        data = connection.read_to_eof()
    assert parse(data).status == 500
    assert not one.log("done")
    assert one.wait_for("begun")["closed"]
    one.finish()
    assert one.wait_for("outcome")["error"] == "LookupError"


def test_the_body_raised(exchange, server):
    """A body that breaks off is the client's at once, and the call waits."""
    one = exchange("raise_middle")
    with Connection(server) as connection:
        one.send(connection)
        data = connection.read_to_eof()
    assert data.partition(b"\r\n\r\n")[2].count(b"x") == 2000
    assert data.count(b"HTTP/1.") == 1
    one.finish()


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


def test_the_client_goes_away(exchange, server):
    """A reset in the middle of the body: the call runs, delivered is False."""
    one = exchange("big")
    with Connection(server) as connection:
        one.send(connection)
        connection.receive(1000)
        connection.reset()
    one.finish()
    assert one.wait_for("outcome")["delivered"] is False


def test_a_client_that_reads_late(exchange, server):
    """What is still in the kernel's buffer is not cut off by the half-close."""
    one = exchange("big")
    with Connection(server) as connection:
        one.send(connection)
        time.sleep(0.3)  # not a hope: the buffers fill, or the test is only weaker
        assert len(parse(connection.read_to_eof()).body) == 20_000_000
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
