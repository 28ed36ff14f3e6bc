"""The hooks on real gunicorns: each way to adopt them, old releases, and settings that
change how workers begin and end."""

from __future__ import annotations

import os
import signal

import pytest

from ..helpers.programs import is_alive
from ..wire import servers
from . import CALLS
from .cell import FOR_EVER, missing
from .gunicorns import INSTALL, configuration, is_loss, losses, lost_in, running

EVERY = set(CALLS)
IMPORT = """
from wsgi_defer.gunicorn import (
    child_exit, on_exit, post_worker_init, pre_fork, worker_abort, worker_exit
)
"""
STAR = "from wsgi_defer.gunicorn import *"
# The user's own hooks, in front of ours. They say when they run.
CHAINED = f"""
def pre_fork(server, worker):
    server.log.error("the user's pre_fork")

def post_worker_init(worker):
    worker.log.error("the user's post_worker_init")

def worker_exit(server, worker):
    worker.log.error("the user's worker_exit")

def child_exit(server, worker):
    server.log.error("the user's child_exit")

def on_exit(server):
    server.log.error("the user's on_exit")

def when_ready(server):
    server.log.error("the user's when_ready")

{INSTALL}
"""
WORKERS = [(worker, ours) for worker in ("sync", "gthread", "gevent")
           for ours in (False, True)]  # fmt: skip
OLD = ["20.1.0", "21.2.0", "22.0.0", "25.3.0"]


def skip_if_missing(worker="sync", version=None):
    """Skip what is not installed, by its name."""
    if worker == "gevent" and missing("27-gevent"):
        pytest.skip("gevent is not installed: make services")
    if version and not (servers.GUNICORNS / version / "gunicorn").exists():
        pytest.skip(f"gunicorn {version} is not installed: make services")


def lose_two(gunicorn):
    """Kill the worker in its second call; its master, which lives on, names them."""
    gunicorn.request(f"/calls?long={FOR_EVER}")
    pid = gunicorn.begun(CALLS[1])
    os.kill(pid, signal.SIGKILL)
    gunicorn.until(lambda: gunicorn.accounted >= EVERY, "all to be named")
    assert gunicorn.finished & EVERY == {CALLS[0]}
    assert gunicorn.named == {CALLS[1], CALLS[2]}
    for name in CALLS[1:]:
        (line,) = losses(gunicorn.log, name)
        assert f"worker {pid}" in line
        assert f"[{gunicorn.master.pid}] [ERROR]" in line
    assert gunicorn.master.poll() is None


def finish_all(gunicorn, target, listener=0):
    """All calls of that request finish, and nothing is said of losses."""
    gunicorn.request(target, listener)
    gunicorn.until(lambda: gunicorn.accounted == EVERY, "all to finish")
    gunicorn.stop()
    assert gunicorn.finished == EVERY
    assert gunicorn.named == set()
    assert "WORKER TIMEOUT" not in gunicorn.log


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize(
    "hooks", [IMPORT, STAR, INSTALL], ids=["import", "star", "install"]
)
def test_adopted_in_a_file(hooks, ours):
    """With the names imported, and with install() as the last line."""
    with running(configuration(ours=ours, hooks=hooks)) as gunicorn:
        lose_two(gunicorn)


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
def test_adopted_without_a_file(ours):
    """With our module as the configuration, and the rest on the command line."""
    name = servers.OURS["sync"] if ours else "sync"
    with running(
        "", "--config", "python:wsgi_defer.gunicorn", "--bind", "127.0.0.1:0",
        "--worker-class", name,
    ) as gunicorn:  # fmt: skip
        lose_two(gunicorn)


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
def test_adopted_beside_the_users_hooks(ours):
    """Theirs run as ever, each once for each worker, and before ours."""
    with running(configuration(ours=ours, hooks=CHAINED)) as gunicorn:
        lose_two(gunicorn)
        gunicorn.until(
            lambda: gunicorn.log.count("the user's post_worker_init") == 2,
            "the next worker",
        )
        gunicorn.stop()
        log = gunicorn.log
    said = [
        line.rpartition(" ")[2] for line in log.splitlines() if "the user's" in line
    ]
    assert {name: said.count(name) for name in said} == {
        "when_ready": 1,
        "pre_fork": 2,
        "post_worker_init": 2,
        "child_exit": said.count("child_exit"),  # the second one may be left to on_exit
        "worker_exit": 1,  # the first was killed
        "on_exit": 1,
    }
    lines = log.splitlines()
    losses = [number for number, line in enumerate(lines) if is_loss(line)]
    theirs = [n for n, line in enumerate(lines) if "the user's child_exit" in line]
    assert theirs[0] < losses[0]


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("version", OLD)
def test_killed_on_old_releases(version, ours):
    """The hooks are called there, too, and name what is lost."""
    skip_if_missing(version=version)
    with running(configuration(ours=ours), version=version) as gunicorn:
        lose_two(gunicorn)


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("version", OLD)
def test_each_call_has_the_whole_timeout_on_old_releases(version, ours):
    """Three calls of four seconds, with a timeout of ten."""
    skip_if_missing(version=version)
    conf = configuration(ours=ours, timeout=10)
    with running(conf, version=version) as gunicorn:
        finish_all(gunicorn, "/calls?seconds=4")


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("listener", [0, 1])
def test_two_listeners(listener, ours):
    """gunicorn then has another loop, with a beat less in it."""
    binds = ["127.0.0.1:0", "127.0.0.1:0"]
    with running(configuration(ours=ours, bind=binds, timeout=10)) as gunicorn:
        finish_all(gunicorn, "/calls?seconds=4", listener)


@pytest.mark.ahead
@pytest.mark.parametrize(("worker", "ours"), WORKERS)
def test_reloaded(worker, ours):
    """A module of the app changes while calls wait: none of them is forgotten."""
    skip_if_missing(worker)
    conf = configuration(worker, ours=ours, reload=True, reload_engine="poll")
    code = "from tests.life.app import app\n"
    with running(conf, app="touched:app", files={"touched.py": code}) as gunicorn:
        client = gunicorn.request("/calls")
        pid = gunicorn.begun(CALLS[0])

        def reloads():
            os.utime(gunicorn.root / "touched.py")  # the first look may not be over
            return "Worker reloading" in gunicorn.log

        gunicorn.until(reloads, "the change to be seen")
        gunicorn.until(lambda: not is_alive(pid), "the worker to end")
        gunicorn.until(lambda: gunicorn.accounted == EVERY, "a word on each call")
        assert gunicorn.finished == EVERY - gunicorn.named
        assert client.surplus() == b""


@pytest.mark.ahead
@pytest.mark.parametrize(("worker", "ours"), WORKERS)
def test_preloaded(worker, ours):
    """The app is loaded in the master, before the fork."""
    skip_if_missing(worker)
    with running(configuration(worker, ours=ours, preload_app=True)) as gunicorn:
        lose_two(gunicorn)


@pytest.mark.ahead
@pytest.mark.parametrize("ours", [False, True])
def test_each_worker_has_its_own(ours):
    """Of two workers, the one that is killed loses its calls, and no others."""
    with running(configuration(ours=ours, workers=2)) as gunicorn:
        gunicorn.request("/calls?prefix=other-&seconds=3")
        gunicorn.begun(f"other-{CALLS[0]}")
        lose_two(gunicorn)
        others = {f"other-{name}" for name in CALLS}
        gunicorn.until(lambda: others <= gunicorn.finished, "the others to finish")
        assert lost_in(gunicorn.log, others) == set()


@pytest.mark.ahead
def test_a_logging_configuration_that_disables_gunicorns_log():
    """As dictConfig() does by default, in a master that has loaded the app: what is
    lost is named all the same."""
    hooks = f"""
import logging.config

def when_ready(server):
    logging.config.dictConfig({{"version": 1}})

{INSTALL}
"""
    with running(configuration(hooks=hooks)) as gunicorn:
        gunicorn.request(f"/calls?long={FOR_EVER}")
        pid = gunicorn.begun(CALLS[1])
        os.kill(pid, signal.SIGKILL)
        gunicorn.until(lambda: gunicorn.accounted >= EVERY, "all to be named")
        assert gunicorn.named == {CALLS[1], CALLS[2]}


def test_the_total_is_that_of_all_lost_calls():
    """Those that the worker has named, and those that the master has."""
    conf = configuration(graceful_timeout=2)
    with running(conf) as gunicorn:
        gunicorn.request("/calls?seconds=60")
        gunicorn.begun(CALLS[0])
        gunicorn.stop()
        assert gunicorn.named == set(CALLS)
        assert "deferred calls that were lost in all workers: 3" in gunicorn.log
