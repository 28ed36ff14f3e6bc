"""Commands that a real gunicorn's views have started, and the ends of that gunicorn."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ..helpers.programs import HOME, children, is_running
from .gunicorns import configuration, running
from .test_hooks import WORKERS, skip_if_missing

# It says who it is and what it has from the worker, and stays.
COMMAND = """
import json, os, time
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[fd] = os.readlink("/proc/self/fd/" + fd)
    except OSError:
        pass
print(json.dumps({"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0),
                  "session": os.getsid(0), "fds": fds}), flush=True)
time.sleep(600)
"""
APP = f"""
import sys
from tests.life.app import ROOT  # which notes that it is loaded
from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.gunicorn._hooks import _recorders
from wsgi_defer.process import detach

PYTHON = [sys.executable, "-I", "-S", "-c"]

def view(environ, start_response):
    path = environ["PATH_INFO"]
    body = b"ok"
    if path == "/unended":  # calls in the ledger
        body = str(len(_recorders[0]._entries)).encode()
    elif path == "/stays":
        defer(detach, [*PYTHON, {COMMAND!r}], log=ROOT / "stays")
    elif path == "/short":
        defer(detach, [*PYTHON, "print(1)", "sec" + "ret"], log=ROOT / "short")
    elif path == "/missing":
        defer(detach, ["no-such-program", "sec" + "ret"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

app = DeferMiddleware(view)
"""
SHORT = 12
pytestmark = pytest.mark.ahead


@contextmanager
def commanding(worker="sync", ours=False):
    """A gunicorn with that app, and a list of commands, which are killed at the end."""
    conf = configuration(
        worker, ours=ours, graceful_timeout=60, keepalive=1, loglevel="debug"
    )
    with running(conf, app="commands:app", files={"commands.py": APP}) as gunicorn:
        try:
            yield gunicorn
        finally:
            for command in reports(gunicorn):
                os.kill(command["pid"], signal.SIGKILL)


def reports(gunicorn):
    """What the commands have said of themselves, those that stay."""
    path = gunicorn.root / "stays"
    said = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in said.splitlines(True) if line[-1] == "\n"]


def start(gunicorn, count):
    """Have a command started that stays, in all so many; returns what it has said."""
    gunicorn.request("/stays")
    gunicorn.until(lambda: len(reports(gunicorn)) == count, "a command to run")
    return reports(gunicorn)[-1]


def check_apart(gunicorn, command):
    """It has nothing of the worker, and the worker has nothing of it: no child, and no
    call that has not ended, and would be lost with its worker."""
    log = str(gunicorn.root / "stays")
    assert command["fds"] == {"0": os.devnull, "1": log, "2": log}
    assert command["session"] == command["group"] == command["pid"]
    # Who has started it ends a moment after it has begun.
    gunicorn.until(lambda: not children(gunicorn.last_loaded), "no child")
    assert children(gunicorn.master.pid) == {gunicorn.last_loaded}
    gunicorn.until(
        lambda: gunicorn.request("/unended").response == b"0", "the call to end"
    )


def is_refused(gunicorn):
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(gunicorn.server.address) != 0


@pytest.mark.parametrize(("worker", "ours"), WORKERS)
def test_a_command_outlives_its_worker_and_its_master(worker, ours):
    """SIGKILL to the one and TERM to the other do not end it, nor wait for it."""
    skip_if_missing(worker)
    with commanding(worker, ours) as gunicorn:
        first = start(gunicorn, 1)
        check_apart(gunicorn, first)
        killed = gunicorn.last_loaded
        os.kill(killed, signal.SIGKILL)
        gunicorn.until(lambda: gunicorn.last_loaded != killed, "another worker")
        second = start(gunicorn, 2)
        check_apart(gunicorn, second)
        asked = time.monotonic()
        gunicorn.stop()
        assert time.monotonic() - asked < 30  # of 60, which is graceful_timeout
        assert is_running(first["pid"])
        assert is_running(second["pid"])
        assert is_refused(gunicorn)
        assert "lost" not in gunicorn.log


def test_a_command_outlives_a_kill_of_all():
    """Also of the whole process group, as a terminal or a supervisor does it."""
    with commanding() as gunicorn:
        command = start(gunicorn, 1)
        os.killpg(gunicorn.master.pid, signal.SIGKILL)
        gunicorn.master.wait()
        gunicorn.until(lambda: is_refused(gunicorn), "the workers to be dead")
        assert is_running(command["pid"])


@pytest.mark.parametrize(("worker", "ours"), WORKERS)
def test_short_commands_leave_nothing(worker, ours):
    """No zombie, no word of the arguments; one that cannot be started is named."""
    skip_if_missing(worker)
    with commanding(worker, ours) as gunicorn:
        for _ in range(SHORT):
            gunicorn.request("/short")
        gunicorn.request("/missing")
        gunicorn.until(lambda: "FileNotFoundError" in gunicorn.log, "the failure")
        output = gunicorn.root / "short"
        gunicorn.until(
            lambda: output.exists() and output.read_text() == "1\n" * SHORT,
            "all to have run",
        )
        gunicorn.until(lambda: not children(gunicorn.last_loaded), "no child")
        gunicorn.stop()
        assert "'no-such-program'" in gunicorn.log
        assert "secret" not in gunicorn.log
        assert "unknown" not in gunicorn.log
        assert gunicorn.log.count("Traceback") == 1


def test_greenlets_go_on_meanwhile():
    """The wait is gevent's, also when its loop waits for any child in our place."""
    skip_if_missing("gevent")
    code = f"""
from gevent import monkey
monkey.patch_all()
import subprocess, sys, time
sys.path.insert(0, {HOME!r})
import gevent
from wsgi_defer.process import detach

subprocess.run(["true"], check=True)  # from here on, the loop reaps each child
turns = []
def turn():
    while True:
        turns.append(time.monotonic())
        gevent.sleep(0.001)
gevent.spawn(turn)
gevent.sleep(0.01)
def turns_meanwhile():
    begin = time.monotonic()
    detach(["true", *["x" * 10_000] * 100])  # more than a socket holds
    end = time.monotonic()
    return sum(begin < each < end for each in turns)
print(max(turns_meanwhile() for _ in range(5)))
# Real threads, in which gevent cannot watch a child.
pids = gevent.get_hub().threadpool.map(detach, [["true"]] * 5)
print(len(set(pids)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    turns, pids = map(int, done.stdout.split())
    assert (turns >= 3, pids) == (True, 5)
    assert not done.stderr
