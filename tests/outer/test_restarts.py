"""A server that is restarted in the middle of its work."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from wsgiref.util import setup_testing_defaults

import pytest

from wsgi_defer import DeferMiddleware
from wsgi_defer.jobs import JobsUnavailable

from ..engines.kinds import KINDS, Own, Place
from ..helpers.waiting import until

SERVED = [kind for kind in KINDS.values() if kind.server and not kind.results]
JOBS = 500
HELD = 2000  # enqueues, each held until its request has succeeded
CLIENTS = 8
DOWN = 1.0  # seconds between the server's end and its start
AGAIN = 30.0  # seconds in which workers go on by themselves


@pytest.fixture
def own(kind):
    own = Own(kind.server)
    place = Place(kind, own)
    yield place, own.running
    place.close()
    own.running.close()


def ended(place):
    return {words[1] for words in place.notes if words[0] == "end"}


def view(jobs, environ, start_response):
    """Promise the job that the path names."""
    jobs.enqueue("nap", 0, job_id=environ["PATH_INFO"].strip("/"))
    start_response("202 Accepted", [("Content-Length", "0")])
    return [b""]


def request(app, job_id):
    """The status of the response."""
    environ, statuses = {"PATH_INFO": f"/{job_id}"}, []
    setup_testing_defaults(environ)
    try:
        body = app(environ, lambda status, headers, info=None: statuses.append(status))
        assert not b"".join(body).strip() or statuses[0] >= "5"
        if hasattr(body, "close"):
            body.close()
    except JobsUnavailable:
        return None
    return statuses[0]


@pytest.mark.parametrize("kind", SERVED, ids=str)
def test_acknowledged_jobs_outlive_a_restart(own):
    """Those that wait, those that run, and those that requests promise meanwhile."""
    place, server = own
    waiting = [place.jobs.enqueue("nap", 0.02, hold=False) for _ in range(JOBS)]
    workers = place.work(2)
    promised, lock = [], threading.Lock()
    numbers, enough, down = count(), threading.Event(), threading.Event()
    app = DeferMiddleware(partial(view, place.jobs))

    def client():
        while (number := next(numbers)) < HELD or not enough.is_set():
            if request(app, f"held-{number}") == "202 Accepted":
                with lock:
                    promised.append(f"held-{number}")
            if number > HELD or down.is_set():
                time.sleep(0.1)

    with ThreadPoolExecutor(CLIENTS) as executor:
        clients = [executor.submit(client) for _ in range(CLIENTS)]
        until(lambda: len(promised) > HELD / 10 and len(ended(place)) > 10, "some work")
        down.set()
        server.stop()
        time.sleep(DOWN)
        server.start()
        down.clear()
        before = len(place.notes)
        try:
            place.until(lambda: len(place.notes) > before + 10, "more of it", AGAIN)
        finally:
            enough.set()
        for each in clients:
            each.result()
    acknowledged = {*waiting, *promised}
    place.until(lambda: acknowledged <= ended(place), "all of them", 400)
    assert workers.supervisor.poll() is None
    assert len(promised) > HELD / 2
