"""Calls that take long, on a real sync worker: gunicorn's timeout and our own limit."""

from __future__ import annotations

import signal
import time
from itertools import count

import pytest

from ..helpers.waiting import at_best
from . import CALLS
from .cell import ROWS, missing
from .gunicorns import configuration, running

OURS = pytest.mark.parametrize("ours", [False, True])


@pytest.mark.ahead
@OURS
@pytest.mark.parametrize("version", ["23.0.0", None])
def test_each_call_has_the_whole_timeout(version, ours):
    """Three calls of four seconds finish with a timeout of ten, in one worker."""
    conf = configuration(ours=ours, timeout=10)
    with running(conf, version=version) as gunicorn:
        gunicorn.request("/calls?seconds=4")
        pids = {gunicorn.begun(name) for name in CALLS}
        gunicorn.until(lambda: gunicorn.accounted == set(CALLS), "all to finish")
        assert gunicorn.finished == set(CALLS)
        assert len(pids) == 1
        assert "WORKER TIMEOUT" not in gunicorn.log


@pytest.mark.ahead
@pytest.mark.parametrize("how", ["HUP", "max_requests"])
@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("27-")])
def test_the_master_is_told_while_a_worker_ends(row, how):
    """Its loop is over, and its calls take longer than the timeout in all."""
    if need := missing(row):
        pytest.skip(f"{need} is not installed: make services")
    version, worker, ours, app = ROWS[row]
    # In a reload, gunicorn 24+ looks after no timeout, for as long as graceful_timeout.
    settings = {"timeout": 10, "graceful_timeout": 30}
    if how == "max_requests":
        settings["max_requests"] = 1
    conf = configuration(worker, ours=ours, **settings)
    with running(conf, version=version, app=f"tests.life.app:{app}") as gunicorn:
        gunicorn.request("/calls?seconds=4")
        gunicorn.begun(CALLS[0])
        if how == "HUP":
            gunicorn.send(signal.SIGHUP)
        gunicorn.until(lambda: gunicorn.accounted == set(CALLS), "all to finish")
        assert gunicorn.finished == set(CALLS), gunicorn.log
        assert "WORKER TIMEOUT" not in gunicorn.log


@pytest.mark.promise("N15")
@pytest.mark.ahead
@OURS
def test_time_limit(ours):
    """A call that never ends is over after its limit, and the next one runs."""
    with running(configuration(ours=ours)) as gunicorn:
        pid = gunicorn.last_loaded
        requests = count(1)

        def first_takes():
            number, sent = next(requests), time.monotonic()
            gunicorn.request("/limited")
            gunicorn.until(
                lambda: len(gunicorn.all_notes("finished")) == number, "the next one"
            )
            first, second = gunicorn.all_notes("begun")[-2:]
            assert (first[0], second[0]) == CALLS[:2]
            assert first[1] == second[1] == pid
            # Its limit begins after the request, but before its own note.
            assert second[2] - sent >= 1.0
            return second[2] - first[2]

        at_best(first_takes, 1.5)
        assert gunicorn.finished == {CALLS[1]}
        assert f"call {CALLS[0]} " in gunicorn.log  # and why, in the library's words
        assert gunicorn.named == set()
        client = gunicorn.request("/")
        assert client.surplus() == b""


@pytest.mark.promise("S14")
@pytest.mark.ahead
@OURS
@pytest.mark.parametrize("app", ["app", "busy"])
def test_a_client_that_waits(app, ours):
    """With when_busy="thread" it waits for one call; as it is, for all of them."""
    conf = configuration(ours=ours)
    with running(conf, app=f"tests.life.app:{app}") as gunicorn:
        # The busy app's first call is still to run when all of this is over.
        seconds = 4 if app == "app" else 8
        gunicorn.request(f"/calls?seconds={seconds}")
        gunicorn.begun(CALLS[0])
        gunicorn.request("/")  # returns when its response is there
        finished = gunicorn.finished
        assert finished == (set(CALLS) if app == "app" else {CALLS[0]})
        gunicorn.until(lambda: gunicorn.finished == set(CALLS), "all to finish")
        assert gunicorn.named == set()
