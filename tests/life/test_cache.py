"""Of four workers, one renews a value at a time, also when it is killed meanwhile."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..helpers.programs import children, is_running
from .gunicorns import configuration, running

WORKERS = 4
KILLS = 3


@pytest.fixture(scope="module")
def gunicorn():
    """For all tests here; each has names of its own."""
    conf = configuration("sync", ours=True, workers=WORKERS, timeout=600)
    with running(conf, app="tests.life.cache_app:app") as gunicorn:
        yield gunicorn


def ask(gunicorn, path, name):
    """Send a request, and return the body of the response."""
    return gunicorn.request(f"/{path}?name={name}").response


def count(gunicorn, event, name):
    """How often that has happened to it."""
    return sum(each[0] == name for each in gunicorn.all_notes(event))


def kill_the_one_that_runs(gunicorn, name):
    """Its worker is one of the server's, which are ours. Returns its id."""
    pid = gunicorn.notes("begun")[name][0]
    assert pid in children(gunicorn.master.pid)
    os.kill(pid, signal.SIGKILL)
    gunicorn.until(lambda: not is_running(pid), "the worker to end")
    return pid


def overlaps(gunicorn, name, killed):
    """With whom another one ran. The kernel frees the locks of a process that is killed
    one after the other, so that it may seem to run for a moment more."""
    found = [each[0].partition(":") for each in gunicorn.all_notes("overlap")]
    return [pid for of, _, pid in found if of == name and pid not in killed]


def ask_until_one_begins(gunicorn, path, name, before):
    """In some worker, after so many others."""

    def begins():
        ask(gunicorn, path, name)
        return count(gunicorn, "begun", name) > before

    gunicorn.until(begins, f"{name} to begin")


@pytest.mark.parametrize("path", ["value", "once"])
def test_who_renews_it_is_killed(gunicorn, path):
    """Another worker does it then. In the meantime, none does, and all have a value."""
    name = f"killed-{path}"
    if path == "value":
        old = ask(gunicorn, path, name)
        assert count(gunicorn, "finished", name) == 1
    else:
        old = b"deferred"
    finished = count(gunicorn, "finished", name)
    hangs = gunicorn.root / f"hangs-{name}"
    hangs.touch()
    killed = set()
    for number in range(finished, finished + KILLS):
        ask_until_one_begins(gunicorn, path, name, before=number)
        for _ in range(3 * WORKERS):
            assert ask(gunicorn, path, name) == old
        assert count(gunicorn, "begun", name) == number + 1
        if number == finished + KILLS - 1:
            hangs.unlink()  # before another one can begin
        killed.add(str(kill_the_one_that_runs(gunicorn, name)))
    ask_until_one_begins(gunicorn, path, name, before=finished + KILLS)
    gunicorn.until(
        lambda: count(gunicorn, "finished", name) > finished, f"{name} to finish"
    )
    assert overlaps(gunicorn, name, killed) == []
    if path == "once":
        for _ in range(3 * WORKERS):
            ask(gunicorn, path, name)
        assert count(gunicorn, "begun", name) == KILLS + 1


def test_of_fifty_at_once_one_computes(gunicorn):
    """The others wait for its value; it ends when all workers have been asked."""
    with ThreadPoolExecutor(50) as threads:
        found = [threads.submit(ask, gunicorn, "cold", "cold") for _ in range(50)]
        try:
            gunicorn.until(
                lambda: len(gunicorn.notes("asked")) == WORKERS, "all to be asked"
            )
        finally:
            (gunicorn.root / "go-cold").touch()
        assert len({each.result() for each in found}) == 1
    assert count(gunicorn, "begun", "cold") == 1
