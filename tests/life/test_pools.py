"""Pools in real workers: abandoned tasks, killed workers, and what children hold."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise
from operator import sub
from pathlib import Path

import pytest

from ..helpers.waiting import at_best
from ..wire import servers
from .gunicorns import INSTALL, PATIENCE, configuration, running

APP = "tests.life.pools_app:app"
SOON = 1.5  # seconds; the tasks take 60
# The worker has two seconds before it is killed, and not one or half of one: a busy
# machine may take some of that.
EARLY_ANSWER = f"{INSTALL}import wsgi_defer.gunicorn._host as host\nhost.ANSWER = 2.0\n"
WIDE_MARGIN = f"{INSTALL}import wsgi_defer.gunicorn._host as host\nhost.MARGIN = 2.0\n"
pytestmark = pytest.mark.ahead
WORKERS = pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])


def need(worker):
    """Gevent is installed for the wire tests."""
    if worker == "gevent":
        pytest.importorskip("gevent")


@WORKERS
@pytest.mark.parametrize("name", ["threads", "io"])
def test_an_abandoned_task(worker, name):
    """It delays neither its response, nor the next request, nor TERM."""
    need(worker)
    if (worker, name) == ("gevent", "io"):
        pytest.skip("asyncio pools are not for gevent")

    def delay():
        plain = times(worker, "/")
        abandoning = times(worker, f"/?abandon={name}")
        return max(map(sub, abandoning, plain))

    at_best(delay, SOON)


def times(worker, target):
    """Seconds for that request, the next one, and TERM."""
    # No connection is kept, because gthread and gevent wait for these at TERM.
    with running(configuration(worker, keepalive=0), app=APP) as gunicorn:
        gunicorn.request("/")
        at = [time.monotonic()]
        gunicorn.request(target)
        at.append(time.monotonic())
        if "threads" in target:
            gunicorn.begun("long-task")
        gunicorn.request("/")
        at.append(time.monotonic())
        gunicorn.stop()
        at.append(time.monotonic())
        if "threads" in target:
            assert "long-task" not in gunicorn.notes("finished")
        assert "Traceback" not in gunicorn.log
    return [later - earlier for earlier, later in pairwise(at)]


def descendants(pid):
    """The processes below that one, by their ids."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, up in parents.items() if up in found} - found:
        found |= more
    return found - {pid}


def is_running(pid):
    """Whether it is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_children_end_with_their_worker(worker, number, state):
    """However that ends, two seconds later none of its processes is left."""
    at_best(lambda: until_children_end(worker, number, state), 2)


def until_children_end(worker, number, state):
    """Seconds from the end of a worker to that of the last of its processes."""
    conf = configuration(worker, graceful_timeout=1)
    with running(conf, app=APP) as gunicorn, ExitStack() as stack:
        pid = gunicorn.last_loaded
        if state == "idle":
            gunicorn.request("/?idle=1")
        else:
            stack.enter_context(ask(gunicorn, "/?busy=1"))
            gunicorn.until(
                lambda: len([n for n in gunicorn.notes("begun") if "child-" in n]) == 2,
                "the tasks in the processes",
            )
        children = descendants(pid)
        assert len(children) == 2
        os.kill(pid, number)
        (gunicorn.root / "go").touch()  # a worker that got TERM waits for its view
        gunicorn.until(lambda: not is_running(pid), "the worker to end")
        ended = time.monotonic()
        gunicorn.until(lambda: not any(map(is_running, children)), "its children")
        return time.monotonic() - ended


def ask(gunicorn, target):
    """Send a request, and do not wait for the response, which may never come."""
    address = gunicorn.server.address
    connection = socket.create_connection(address)
    connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_term_to_all_processes(worker):
    """As systemd sends it by default: the worker finishes, with its children's help."""
    with running(configuration(worker, keepalive=0), app=APP) as gunicorn:
        worker_pid = gunicorn.last_loaded
        with ask(gunicorn, "/?child=1") as connection:
            gunicorn.begun("short-task")
            everybody = {gunicorn.master.pid} | descendants(gunicorn.master.pid)
            assert worker_pid in everybody
            assert len(everybody) == 3
            for pid in sorted(everybody, reverse=True):
                os.kill(pid, signal.SIGTERM)
            connection.settimeout(PATIENCE)
            assert b" 200 OK" in connection.recv(100)
        gunicorn.until(lambda: not any(map(is_running, everybody)), "all to end", 20)


def listening_sockets():
    """The inodes of all TCP sockets that listen."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {f"socket:[{each[9]}]" for each in fields if each[3] == "0A"}


def open_files(pid):
    """What its descriptors lead to."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found[int(path.name)] = os.readlink(path)
    return found


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_children_hold_no_listening_socket(worker):
    """Nor the notes of the app, nor gunicorn's file of the heartbeat."""
    with running(configuration(worker), app=APP) as gunicorn:
        pid = gunicorn.last_loaded  # before children load the app, too
        gunicorn.request("/?idle=1")
        listening = listening_sockets()
        worker_files = open_files(pid)
        assert listening & set(worker_files.values())
        children = descendants(pid)
        assert len(children) == 2
        for child in children:
            held = open_files(child)
            assert not listening & set(held.values())
            assert not any("/wgunicorn-" in name for name in held.values())


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_max_requests(worker):
    """A worker with pools in use ends by itself, and the next one has its own."""
    conf = configuration(worker, max_requests=2)
    with running(conf, app=APP) as gunicorn:
        first = gunicorn.last_loaded
        children = None
        for _ in range(2):
            gunicorn.request("/?idle=1&abandon=threads")
            children = children or descendants(first)
        # Less than graceful_timeout, and than the tasks take.
        gunicorn.until(lambda: not is_running(first), "the worker to end", 20)
        gunicorn.until(lambda: not any(map(is_running, children)), "its children")
        gunicorn.request("/?idle=1")


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("version", ["20.1.0", None])
def test_a_task_that_takes_longer_than_the_timeout(version, ours):
    """On a sync worker, the view gets an error in time, and the worker lives on."""
    if version is not None and not (servers.GUNICORNS / version / "installed").exists():
        pytest.skip(f"gunicorn {version} is not installed: make services")
    conf = configuration(ours=ours, hooks=EARLY_ANSWER, timeout=10)
    with running(conf, version=version, app=APP) as gunicorn:
        pid = gunicorn.last_loaded
        for _ in range(2):
            began = time.monotonic()
            answer = get(gunicorn, "/?await=20")
            took = time.monotonic() - began
            assert b" 500 " in answer.splitlines()[0]
            # 2 seconds before gunicorn's timeout of 10 s, which has started before the
            # wait; less than that, if a busy machine wakes the waiting thread late.
            said = re.search(rb"no result after (\S+) s\. The server would", answer)
            assert 4 < float(said[1]) < 10
            assert float(said[1]) < took + 0.1  # it is rounded
        assert b" 200 OK" in get(gunicorn, "/?await=2")
        assert is_running(pid)
        assert "TIMEOUT" not in gunicorn.log


@pytest.mark.parametrize("ours", [False, True])
@WORKERS
def test_a_task_that_takes_longer_than_a_stopping_worker_has(worker, ours):
    """The view that waits for it answers before the worker is killed."""
    need(worker)
    conf = configuration(worker, ours=ours, hooks=WIDE_MARGIN, graceful_timeout=10)
    with running(conf, app=APP) as gunicorn, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(get, gunicorn, "/?await=20")
        gunicorn.until(lambda: "view" in gunicorn.notes("awaits"), "the view")
        gunicorn.send(signal.SIGTERM)
        assert b" 500 " in answer.result().splitlines()[0]


def test_a_thread_may_wait_for_longer_than_the_timeout():
    """On a gthread worker, whose heart beats meanwhile."""
    with running(configuration("gthread", timeout=6), app=APP) as gunicorn:
        assert b" 200 OK" in get(gunicorn, "/?await=9")


def get(gunicorn, target):
    """Send a request, and read until the server closes the connection."""
    with ask(gunicorn, target) as connection:
        return b"".join(iter(lambda: connection.recv(4096), b""))
