"""What a test that stops the clock gets."""

from __future__ import annotations

import ast
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from wsgi_defer import DeferMiddleware, defer, pool
from wsgi_defer._runtime import clock
from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs.engines.dbos import sqlite_file
from wsgi_defer.pools import ThreadPool
from wsgi_defer.testing import exchange

from ..test_house import PATHS


@pytest.fixture(params=["freezegun", "time_machine"])
def stop(request):
    """A function that stops the clock on a day, and one that moves it on."""
    package = pytest.importorskip(request.param)
    if request.param == "freezegun":
        with package.freeze_time("2030-01-02") as frozen:
            yield frozen.tick
    else:
        with package.travel("2030-01-02", tick=False) as traveller:
            yield traveller.shift


def test_it_is_the_clock_of_waits():
    """In the same seconds."""
    assert abs(clock.monotonic() - time.monotonic()) < 1


def test_limits_keep_their_time(stop):
    """A time limit, and what waits for a pool."""

    def spin():
        while not released.is_set():
            pass

    def app(environ, start_response):
        task = pool("small").submit(released.wait, 20)
        with pytest.raises(TimeoutError):
            task.result(0.01)
        with pytest.raises(TimeoutError):
            task.result()
        defer(spin).time_limit(0.05)
        start_response("200 OK", [])
        return [b"x"]

    released = threading.Event()
    timer = threading.Timer(10, released.set)
    timer.start()
    try:
        pools = {"small": ThreadPool(1, max_wait=0.1)}
        reply = exchange(DeferMiddleware(app, pools=pools))
        assert reply.calls[0].became == "failed"
        assert not released.is_set()
    finally:
        timer.cancel()
        released.set()


def test_what_is_told_is_the_time_of_the_test(stop):
    """How long the request took, and the dates of a job."""

    def app(environ, start_response):
        defer(int)
        stop(7)
        start_response("200 OK", [])
        return [b"x"]

    moved = time.monotonic()
    stop(3)
    moves = time.monotonic() - moved > 2  # time-machine leaves this clock alone
    reply = exchange(DeferMiddleware(app))
    assert (reply.outcome.duration >= 7) is moves
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    with jobs.captured():
        job = jobs.status(jobs.enqueue("mail", {}))
    assert f"{job.enqueued_at:%Y-%m-%d}" == "2030-01-02"


def test_a_database_that_is_locked(stop, tmp_path):
    """The app is told in time."""
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            sqlite_file.make_ready(str(path), patience=0.05)


def test_no_client_of_jobs_waits_by_a_clock_that_stops():
    """Those of workers may: no test is in their processes."""
    clients = [
        path
        for name, path in PATHS.items()
        if "engines" in name
        and name.rpartition(".")[2] in ("client", "sqlite_file", "_postgres")
    ]
    assert len(clients) == 6
    for path in clients:
        assert "time.monotonic" not in path.read_text(), path
        assert "from time import" not in path.read_text(), path


def reads_a_clock(node):
    """Whether it imports a function of ``time``, or uses one, but for ``sleep()``."""
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return {alias.name for alias in node.names} != {"sleep"}
    of_time = getattr(getattr(node, "value", None), "id", "") == "time"
    return of_time and getattr(node, "attr", "sleep") != "sleep"


def test_where_clocks_are_read():
    """One place for all that could wait for ever; nobody tests inside a worker."""
    readers = {
        name
        for name, path in PATHS.items()
        if name.partition(".")[0] not in ("gunicorn", "ledger", "jobs")
        and any(map(reads_a_clock, ast.walk(ast.parse(path.read_text()))))
    }
    told = {"_calls.call", "_request.exchange", "testing._captured"}
    told |= {"_caches.store", "_runtime.machine_lock"}  # dates
    assert readers == {"_runtime.clock", *told}
