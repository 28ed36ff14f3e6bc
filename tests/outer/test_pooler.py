"""PostgreSQL behind PgBouncer."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from wsgi_defer.jobs import NotSupported

from ..engines.kinds import KINDS, PATIENCE, Place
from ..engines.services import Postgres
from .services import PgBouncer

ON_POSTGRES = [kind for kind in KINDS.values() if kind.server is Postgres]
EACH = pytest.mark.parametrize("kind", ON_POSTGRES, ids=str)


class Pooled:
    """One pooler, whatever server is asked for."""

    def __init__(self, servers, mode):
        PgBouncer.skip_unless_installed()
        self.pooler = PgBouncer(servers.get(Postgres), mode)

    def get(self, _):
        return self.pooler


@pytest.fixture
def place(servers, kind, mode):
    with ExitStack() as stack:
        pooled = Pooled(servers, mode)
        stack.callback(pooled.pooler.close)
        place = Place(kind, pooled)
        stack.callback(place.close)
        yield place


@EACH
@pytest.mark.parametrize("mode", ["session"])
def test_jobs_run_in_session_mode(place):
    """Also delayed ones, and those of a worker that was killed."""
    workers = place.work(1)
    now, later = place.jobs.enqueue("echo", 1), place.jobs.enqueue("echo", 2, delay=1)
    for job_id in (now, later):
        assert place.wait(job_id).state == "done"
    held = place.jobs.enqueue("held", str(place.root / "gate"))
    place.until(lambda: place.times("start", held), "its start")
    workers.kill()
    (place.root / "gate").touch()
    place.work(2)
    assert place.wait(held).state == "done"


@EACH
@pytest.mark.parametrize("mode", ["transaction"])
@pytest.mark.parametrize("busy", [False, True])
def test_transaction_mode_is_refused(place, busy):
    """By the client and by the worker, which ends. The error says what to do."""
    with ExitStack() as stack:
        if busy:  # the pooler has several connections to choose from
            others = [stack.enter_context(psycopg.connect(
                place.url.removeprefix("dbos+"))) for _ in range(4)]  # fmt: skip
            for other in others:
                other.execute("SELECT 1")
            for other in others:
                other.commit()
        told = r"in transaction mode\. Set pool_mode = session"
        for _ in range(2):
            with pytest.raises(NotSupported, match=told):
                place.jobs.enqueue("echo")
        # Which another client may have next.
        with psycopg.connect(place.url.removeprefix("dbos+")) as other:
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
    workers = place.work(1)
    assert workers.supervisor.wait(PATIENCE) == 1
    assert "Set pool_mode = session" in (place.root / "output").read_text()
