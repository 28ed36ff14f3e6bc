"""``before_response(task.delay, 42)`` with the users' own queue, behind gunicorn."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from .kinds import HOME
from .services import Rabbit, Redis

WORKERS = {
    "celery": ["-m", "celery", "-A", "tests.engines.own:celery", "worker", "-c", "1",
               "-l", "WARNING", "--without-gossip", "--without-mingle"],
    "rq": ["-m", "rq.cli", "worker", "own", "--url"],
}  # fmt: skip
SERVERS = {"celery": Rabbit, "rq": Redis}


@contextmanager
def running(command, url, root):
    """A process with a log, until it is no longer needed."""
    env = {**os.environ, "OWN_URL": url, "JOBS_NOTES": str(root / "notes"),
           "PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1"}  # fmt: skip
    log = root / f"log{time.monotonic_ns()}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=HOME, env=env, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def serving(url, root):
    """The app on two gunicorn workers. Gives a function that requests a number."""
    command = ["-m", "gunicorn", "--config", "python:tests.wire.plain", "--bind",
               "127.0.0.1:0", "--workers", "2", "--no-control-socket", "--preload",
               "tests.engines.own:app"]  # fmt: skip
    with running(command, url, root) as log:
        [port] = wait(lambda: re.findall(r"Listening at: http://\S+:(\d+)\s",
                                         log.read_text()), log)  # fmt: skip

        def get(number):
            client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            client.request("GET", f"/{number}")
            status = client.getresponse().status
            client.close()
            return status

        yield get


def wait(true, log):
    """Ask until the answer is true; return it."""
    return until(true, lambda: log.read_text()[-3000:], OF_PROCESSES)


@pytest.mark.parametrize("name", SERVERS)
def test_it_is_written_when_the_response_is_a_success(servers, tmp_path, name):
    """Each 202 has its job, and no 500 has one. The queue's own worker runs them."""
    pytest.importorskip(name)
    url = servers.get(SERVERS[name]).url
    with serving(url, tmp_path) as get:
        assert [get(number) for number in range(10)] == [202, 500] * 5
    command = [*WORKERS[name], url] if name == "rq" else WORKERS[name]
    notes = tmp_path / "notes"
    with running(command, url, tmp_path) as log:
        wait(lambda: notes.exists() and notes.read_text().count("\n") >= 5, log)
    assert sorted(map(int, notes.read_text().split())) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("name", SERVERS)
def test_a_broker_that_is_down_is_a_503(tmp_path, name, monkeypatch):
    """The client is not told that it was accepted."""
    pytest.importorskip(name)
    monkeypatch.setenv("OWN_TIMEOUT", "2")
    scheme = "amqp" if name == "celery" else "redis"
    with serving(f"{scheme}://127.0.0.1:1/", tmp_path) as get:
        assert get(42) == 503
