"""Our worker classes as gunicorn's: recycled, preloaded, stopped, and with an app that
raises. Each call of a request runs once, whatever becomes of its worker."""

from __future__ import annotations

import importlib.util
import time

import pytest

from . import servers
from .client import Connection


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
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if all(ticks(server, key) for key in keys):
            break
        time.sleep(0.02)
    assert {key: ticks(server, key) for key in keys} == dict.fromkeys(keys, 1)


@pytest.fixture
def server():
    """A server that is stopped after the test."""
    server = servers.Server()
    yield server
    server.stop()


@pytest.mark.parametrize("options", [["--max-requests", "3"], ["--preload"]])
def test_recycled_and_preloaded(server, worker, options):
    """A worker that has served enough finishes its calls before the next one comes."""
    serve(server, worker, *options)
    keys = [f"request{number}" for number in range(8)]
    for key in keys:
        assert get(server, "list", key, 0.02).endswith(b"hello")
    wait_for(server, keys)


def test_stopped(server, worker):
    """TERM waits for the calls that run and those that are still to run."""
    serve(server, worker)
    assert get(server, "list", "last", 0.5).endswith(b"hello")
    server.processes[0].terminate()
    assert server.processes[0].wait(15) == 0
    assert ticks(server, "last") == 1


def test_not_held_up_by_timeout(server, worker):
    """A short call after each of many requests adds up to no timeout."""
    serve(server, worker, "--timeout", "1")
    keys = [f"request{number}" for number in range(6)]
    for key in keys:
        assert get(server, "list", key, 0.3).endswith(b"hello")
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
    assert "un-acquired lock" not in server.output.read_text()
    assert get(server, "list", "plain", 0.1).endswith(b"hello")
    wait_for(server, ["plain"])


def test_lost_calls_are_named(server, worker):
    """A worker that is stopped with too little time says which call it cut off."""
    serve(server, worker, "--graceful-timeout", "1", "--max-requests", "1")
    assert get(server, "list", "long", 6).endswith(b"hello")
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        if ticks(server, "long") or "cut off" in server.output.read_text():
            break
        time.sleep(0.05)
    assert ticks(server, "long") or "tick cut off" in server.output.read_text()
