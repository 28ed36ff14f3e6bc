"""Orders to stop, in programs that no server looks after."""

from __future__ import annotations

import signal
import textwrap

import pytest

from ..helpers.programs import run_program

BLOCK = """
import os, signal, sys, time
from wsgi_defer import defer, deferring

def handle(number, frame):
    sys.exit(143)

def cut_off(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

signal.signal(signal.SIGTERM, handle)
with deferring():
    defer(print, "first", flush=True)
    defer(cut_off, int(sys.argv[1]))
    for number in range(3):
        defer(print, "never").named(f"call {number}")
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_a_command_that_is_stopped(tmp_path, number, status):
    """It ends as it would without us, and names the calls that did not run."""
    ended, output = run_program(tmp_path, BLOCK, str(int(number)))
    assert ended == status, output
    assert "never" not in output
    assert output.startswith("first\n")
    for name in ("__main__.cut_off lost while it ran", "call 0 lost", "call 2 lost"):
        assert f"deferred call {name}" in output


WSGIREF = """
import os, signal, threading, time, urllib.request
from wsgiref.simple_server import make_server
from wsgi_defer import DeferMiddleware, defer

def cut_off():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

def app(environ, start_response):
    start_response("200 OK", [])
    defer(int, "no number")
    defer(cut_off)
    defer(print, "never").named("the last one")
    return [b"hello"]

def ask():
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}") as response:
        response.read()

server = make_server("127.0.0.1", 0, DeferMiddleware(app, inline=True))
threading.Thread(target=ask, daemon=True).start()
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("stopped", flush=True)
server.server_close()
"""


def test_wsgiref_stops(tmp_path):
    """It would log a Ctrl-C inside close(), and go on serving."""
    status, output = run_program(tmp_path, textwrap.dedent(WSGIREF))
    assert status == 0, output
    assert "stopped\n" in output
    assert "never" not in output
    assert "deferred call the last one lost" in output
