"""Our worker classes as gunicorn's: recycled, reloaded, preloaded, stopped, and with an
app that raises. Each call of a request runs once, whatever becomes of its worker."""

from __future__ import annotations

import importlib.util
import json
import os
from functools import partial

import pytest

from ..helpers.waiting import OF_PROCESSES
from ..helpers.waiting import until as until_in_time
from . import servers
from .client import Connection

until = partial(until_in_time, patience=OF_PROCESSES)
PATIENT = ["--graceful-timeout", "30"]


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker(request):
    """Each kind of worker."""
    if request.param == "gevent" and not importlib.util.find_spec("gevent"):
        pytest.skip("gevent is not installed: make services")
    return request.param


def serve(server, worker, *options):
    """Start gunicorn with our class of that kind."""
    servers.gunicorn(server, worker, ours=True, options=options)


def get(server, path, key, seconds=0):
    """One request on a connection of its own; returns all that the server sent."""
    with Connection(server) as connection:
        target = f"/{path}?key={key}&seconds={seconds}&ticks={key}"
        connection.send("GET", target, "HTTP/1.0")
        return connection.read_to_eof()


def ticks(server, key):
    """How often the call of that request has run."""
    path = server.root / f"{key}.ticks"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(server, keys):
    """Wait until the call of each request has run."""
    until(lambda: all(ticks(server, key) for key in keys), server.output.read_text)
    assert {key: ticks(server, key) for key in keys} == dict.fromkeys(keys, 1)


def events(server, key):
    """What the app has written to the log of that request."""
    path = server.root / f"{key}.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["event"] for line in lines if line.endswith("}")]


@pytest.fixture
def server():
    """A server that is stopped after the test."""
    server = servers.Server()
    yield server
    server.stop()


@pytest.mark.parametrize("options", [["--max-requests", "3"], ["--preload"]])
def test_recycled_and_preloaded(server, worker, options):
    """A worker that has served enough finishes its calls before the next one comes."""
    serve(server, worker, *PATIENT, *options)
    keys = [f"request{number}" for number in range(8)]
    for key in keys:
        assert get(server, "list", key, 0.02).endswith(b"hello")
    wait_for(server, keys)


def test_stopped(server, worker):
    """TERM waits for the calls that run and those that are still to run."""
    serve(server, worker, *PATIENT)
    assert get(server, "list", "last", 0.5).endswith(b"hello")
    server.processes[0].terminate()
    assert server.processes[0].wait(OF_PROCESSES) == 0
    assert ticks(server, "last") == 1


def test_not_held_up_by_timeout(server, worker):
    """A short call after each of many requests adds up to no timeout."""
    # 9.1 s in all, for one worker; but none is killed for a busy machine's pauses.
    serve(server, worker, "--timeout", "8", "--workers", "1")
    keys = [f"request{number}" for number in range(13)]
    for key in keys:
        assert get(server, "list", key, 0.7).endswith(b"hello")
    wait_for(server, keys)
    assert "WORKER TIMEOUT" not in server.output.read_text()


@pytest.mark.parametrize("ours", [False, True])
def test_collected_by_a_middleware_outside(server, worker, ours):
    """It closes the body before it has sent a byte; the client has it all the same."""
    servers.gunicorn(server, worker, ours=ours, app="tests.wire.app:collected")
    for number in range(3):
        assert get(server, "list", f"request{number}", 0.3).endswith(b"hello")
    wait_for(server, ["request0", "request1", "request2"])


@pytest.mark.parametrize("ours", [False, True])
def test_preloaded_and_raising(server, worker, ours):
    """The background thread is there after the fork, also with gevent's locks."""
    servers.gunicorn(server, worker, ours=ours, options=["--preload"])
    for number in range(3):
        assert b" 500 " in get(server, "raise", f"request{number}", 0.1)[:20]
    assert "Traceback" in server.output.read_text()
    assert get(server, "list", "plain", 0.1).endswith(b"hello")
    wait_for(server, ["plain"])
    assert "un-acquired lock" not in server.output.read_text()


def test_lost_calls_are_named(server, worker):
    """A worker that is stopped with too little time says which call it cut off."""
    serve(server, worker, "--graceful-timeout", "1", "--max-requests", "1")
    assert get(server, "list", "long", 6).endswith(b"hello")
    until(lambda: ticks(server, "long") or "tick lost" in server.output.read_text())


RELOADED = """
from tests.wire import app as wire
from wsgi_defer import DeferMiddleware

def application(environ, start_response):
    if environ["PATH_INFO"] == "/version":
        start_response("200 OK", [])
        return [b"{}"]
    return wire.application(environ, start_response)

app = DeferMiddleware(application)
"""


def test_reloaded(server, worker):
    """Its source is changed while a call runs and another one is still to run."""
    module = server.root / "reloaded.py"
    module.write_text(RELOADED.format("old"))
    servers.gunicorn(
        server, worker, ours=True, app="reloaded:app",
        options=["--pythonpath", str(server.root), "--reload", "--reload-engine",
                 "poll", *PATIENT],
    )  # fmt: skip
    with Connection(server) as connection:
        connection.send("GET", "/list?key=held", "HTTP/1.0")
        assert connection.read_to_eof().endswith(b"hello")
    until(lambda: events(server, "held") == ["begun"])
    assert get(server, "version", "old").endswith(b"old")
    newer = server.root / "newer"
    newer.write_text(RELOADED.format("newer"))
    newer.replace(module)  # at once: nobody may import a half of it

    def noticed():
        # The reloader may see the file for the first time only now, as it is.
        os.utime(module)
        return "reloaded.py modified" in server.output.read_text()

    until(noticed)
    (server.root / "held.gate").touch()

    def answers():
        try:
            return get(server, "version", "newer").endswith(b"newer")
        except OSError:  # the old worker had it, and ends
            return False

    until(answers)
    until(lambda: events(server, "held") == ["begun", "done", "outcome"])


MEETING = """
import time
from urllib.parse import parse_qs
from tests.wire.app import ROOT, log
from wsgi_defer import DeferMiddleware, defer

def wait(key, step):
    log(key, step)
    while not (ROOT / f"{key}.{step}").exists():
        time.sleep(0.005)

def body(key):
    for step in ("first", "second"):
        wait(key, step)
        defer(log, key, f"after {step}")
        yield f"{key} {step};".encode()

def application(environ, start_response):
    key = parse_qs(environ["QUERY_STRING"])["key"][0]
    defer(log, key, "before")
    wait(key, "view")
    defer(log, key, "after view")
    start_response("200 OK", [])
    return body(key)

app = DeferMiddleware(application)
"""


@pytest.mark.parametrize("ours", [False, True])
def test_two_requests_at_once(server, worker, ours):
    """Each keeps its own calls, step by step, and they run when it has ended."""
    (server.root / "meeting.py").write_text(MEETING)
    options = ["--pythonpath", str(server.root)]
    servers.gunicorn(server, worker, ours=ours, app="meeting:app", options=options)
    steps, calls = ["view", "first", "second"], ["before", "after view", "after first",
                                                 "after second"]  # fmt: skip
    with Connection(server) as one, Connection(server) as two:
        one.send("GET", "/?key=one", "HTTP/1.0")
        two.send("GET", "/?key=two", "HTTP/1.0")
        for step in steps:
            until(lambda step=step: events(server, "one")[-1:] == [step])
            until(lambda step=step: events(server, "two")[-1:] == [step])
            if step != steps[-1]:
                (server.root / f"one.{step}").touch()
                (server.root / f"two.{step}").touch()
        (server.root / "two.second").touch()
        assert two.read_to_eof().endswith(b"two first;two second;")
        until(lambda: events(server, "two") == steps + calls)
        assert events(server, "one") == steps
        (server.root / "one.second").touch()
        assert one.read_to_eof().endswith(b"one first;one second;")
        until(lambda: events(server, "one") == steps + calls)
    assert events(server, "two") == steps + calls
