"""The app that the real servers serve: one path for each shape of response.

Its deferred call is held at a gate, a file that the test makes. So a test that has the
end of the response has it before the call has ended, on any machine, however slow.
What happens is written to the log, a file of JSON lines.
"""

from __future__ import annotations

import gc
import io
import json
import os
import socket
import time
from pathlib import Path
from threading import current_thread, main_thread
from urllib.parse import parse_qs

from wsgi_defer import DeferMiddleware, before_response, defer
from wsgi_defer._servers.half_close import ClosingServer

ROOT = Path(os.environ["WIRE_ROOT"])
GATE = 180.0  # seconds that a call waits at its gate, more than any client has patience
sent_with_sendfile = []

if os.environ.get("WIRE_WITHOUT") == "half-close":  # to see that the table sees it
    ClosingServer.end_stream = lambda *args: True  # as if it had done so

# Counts what the server sends with sendfile(2), for the log.
_sendfile = socket.socket.sendfile


def counting_sendfile(self, *args, **kwargs):
    """The same, and the number of bytes is noted."""
    sent = _sendfile(self, *args, **kwargs)
    sent_with_sendfile.append(sent)
    return sent


socket.socket.sendfile = counting_sendfile


class CountingFile(io.FileIO):
    """A file that notes each time somebody in Python reads from it.

    A server that gives its descriptor to the kernel does not read at all.
    """

    reads = 0

    def readinto(self, buffer):
        """Read into a buffer, and note it."""
        CountingFile.reads += 1
        return super().readinto(buffer)

    def readall(self):
        """Read all, and note it."""
        CountingFile.reads += 1
        return super().readall()


def log(key, event, **facts):
    """Write a line to the log of that request."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **facts})
    with (ROOT / f"{key}.log").open("a") as file:
        file.write(line + "\n")


def gated(key, sock):
    """The deferred call: it says that it has begun, and waits for the gate."""
    closed = sock is None or sock.fileno() == -1
    log(key, "begun", sendfile=sum(sent_with_sendfile), reads=CountingFile.reads,
        closed=closed, main=current_thread() is main_thread())  # fmt: skip
    sent_with_sendfile.clear()
    CountingFile.reads = 0
    deadline = time.monotonic() + GATE
    while not (ROOT / f"{key}.gate").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    log(key, "done")


def tick(key, number, seconds):
    """A short call, for the stress test: one line for each time that it ran."""
    time.sleep(seconds)
    with (ROOT / f"{key}.ticks").open("a") as file:
        file.write(f"{number}\n")


def refuse():
    """A call that the response waits for, and that fails."""
    raise ConnectionError("the broker is down")


class Body:
    """An iterator with a close() that is written to the log."""

    def __init__(self, key, chunks):
        self.key, self.chunks = key, iter(chunks)

    def __iter__(self):
        """Itself: this is an iterator."""
        return self

    def __next__(self):
        """The next chunk."""
        return next(self.chunks)

    def close(self):
        """Note that the server, or who wraps us, was here."""
        log(self.key, "closed")


def deferring_gate(key, sock):
    """Defer the call that waits at the gate, and one that notes the outcome."""
    defer(gated, key, sock).always()
    defer(lambda: None).when(
        lambda outcome: log(
            key, "outcome", status=outcome.status, delivered=outcome.delivered,
            error=type(outcome.error).__name__,
        )
    )  # fmt: skip


def application(environ, start_response):
    """The path is the shape of the response; ``calls=0`` is the same with no calls."""
    query = {
        name: value[0] for name, value in parse_qs(environ["QUERY_STRING"]).items()
    }
    key, shape = query["key"], environ["PATH_INFO"].strip("/")
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    text = ("Content-Type", "text/plain")
    if shape == "refused_late":  # nothing is pending when the response starts
        start_response("200 OK", [text, ("Content-Length", "5")])
        deferring_gate(key, sock)
        before_response(refuse)
        return [b"hello"]
    if "ticks" in query:
        defer(tick, key, query["ticks"], float(query["seconds"]))
    elif query.get("calls") != "0":
        deferring_gate(key, sock)

    def start(length=None, status="200 OK"):
        """The app's start of the response."""
        more = [] if length is None else [("Content-Length", str(length))]
        return start_response(status, [text, *more])

    match shape:
        case "list_length":
            start(5)
            return [b"hello"]
        case "list":
            start()
            return [b"hel", b"lo"]
        case "generator":
            start()
            return (part for part in (b"hel", b"", b"lo"))
        case "iterator":
            start()
            return Body(key, [b"hel", b"lo"])
        case "lazy":
            return lazy(start)
        case "write":
            start()(b"hel")
            return [b"lo"]
        case "empty":
            start(status="302 Found")
            return []
        case "204":
            start_response("204 No Content", [])
            return []
        case "304":
            start_response("304 Not Modified", [])
            return []
        case "404":
            start(5, "404 Not Found")
            return [b"hello"]
        case "file_length" | "file":
            path = ROOT / "file"
            start(path.stat().st_size if shape == "file_length" else None)
            return environ["wsgi.file_wrapper"](io.BufferedReader(CountingFile(path)))
        case "memory_file":
            start()
            return environ["wsgi.file_wrapper"](io.BytesIO(b"hello"))
        case "big":
            start(20_000_000)
            return (b"x" * 100_000 for _ in range(200))
        case "refused":
            before_response(refuse)
            start(5)
            return [b"hello"]
        case "raise":
            raise LookupError("raised before the response")
        case "raise_late":
            start()
            raise LookupError("raised after start_response")
        case "raise_first":
            return raising(start, 0)
        case "raise_middle":
            return raising(start, 2)
    raise ValueError(shape)


def lazy(start):
    """A generator that starts the response when it is asked for its first item."""
    start()
    yield b"hel"
    yield b"lo"


def raising(start, items):
    """A body that raises after that many items."""
    start()
    yield from [b"x" * 1000] * items
    raise LookupError("raised in the body")


def framework(environ, start_response):
    """What frameworks do: bring a file wrapper if there is none, and answer HEAD."""

    def wrapper(file, block_size=8192):
        """Read the file in blocks."""
        return iter(lambda: file.read(block_size), b"")

    environ.setdefault("wsgi.file_wrapper", wrapper)
    body = application(environ, start_response)
    if environ["REQUEST_METHOD"] == "HEAD":  # werkzeug's server sends what it gets
        getattr(body, "close", lambda: None)()
        return []
    return body


app = DeferMiddleware(framework)


def collected(environ, start_response):
    """A middleware outside that collects the response, and sends it afterwards."""
    head = []

    def catch(status, headers, exc_info=None):
        head[:] = [status, headers]
        return head.append

    body = app(environ, catch)
    data = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    start_response(*head)
    return [data]


class Iterated:
    """What Datadog's middleware gives the server: it keeps, steps through and closes
    what ``iter()`` gives, and never the body itself."""

    def __init__(self, body):
        self.steps = iter(body)

    def __iter__(self):
        """Itself."""
        return self

    def __next__(self):
        """The next item."""
        return next(self.steps)

    def close(self):
        """Close what it has."""
        getattr(self.steps, "close", lambda: None)()


def iterated(environ, start_response, app=app):
    """A middleware outside of that kind."""
    return Iterated(app(environ, start_response))


def own_start_response(environ, start_response, app=app):
    """One that puts its own ``start_response`` before the server's, as Sentry's."""

    def start(status, headers, exc_info=None):
        if exc_info is None:
            return start_response(status, headers)
        return start_response(status, headers, exc_info)

    return app(environ, start)


if os.environ.get("WIRE_OUTSIDE") == "own_start_response":
    app = own_start_response
if os.environ.get("WIRE_OUTSIDE") == "iterated":
    gc.disable()  # or it may close what nobody has closed, before a test has seen that
    app = iterated


def looking(environ, start_response):
    """Its call looks at the environ when the response is over."""
    key = environ["PATH_INFO"].strip("/")
    kept = environ["wsgi.input"]
    part = kept.read(2) if key.startswith("part") else b""
    defer(look, key, environ, kept)
    start_response("200 OK", [("Content-Length", str(len(part)))])
    return [part]


def look(key, environ, kept):
    """Note what is there, and write a line to the error log."""
    environ["wsgi.errors"].write(f"a line of {key}\n")
    environ["wsgi.errors"].flush()
    read = {}
    for name, body in (("own", environ["wsgi.input"]), ("kept", kept)):
        try:
            read[name] = repr(body.read(1))
        except Exception as error:
            read[name] = str(error)
    log(key, "looked", scheme=environ["wsgi.url_scheme"], path=environ["PATH_INFO"],
        stale=environ.get("HTTP_X_STALE"), read=read)  # fmt: skip


if os.environ.get("WIRE_OUTSIDE") == "looking":
    app = DeferMiddleware(looking)
if os.environ.get("WIRE_OUTSIDE") == "flask":
    from .flask_app import app
