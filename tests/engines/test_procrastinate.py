"""What only Procrastinate on PostgreSQL can get wrong."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from .kinds import KINDS, Own, Place
from .services import Postgres, frozen

if "procrastinate" not in KINDS:
    pytest.skip("Procrastinate is not installed", allow_module_level=True)


@pytest.mark.ahead
@pytest.mark.parametrize("how", ["down", "frozen"])
def test_an_idle_worker_ends_without_its_server(how):
    """It need not tell the server."""
    own = Own(Postgres)
    place = Place(KINDS["procrastinate"], own)
    family = []
    try:
        workers = place.work(1)
        place.wait(place.jobs.enqueue("echo"))
        if how == "down":
            own.running.stop()
        else:
            for process in own.running.processes:
                path = f"/proc/{process.pid}/task/{process.pid}/children"
                with open(path) as file:
                    family += [process.pid, *map(int, file.read().split())]
        with frozen(*family):
            time.sleep(1.5)  # it has looked for jobs in vain
            start = time.monotonic()
            workers.terminate()
            workers.supervisor.wait(60)
            assert time.monotonic() - start < 30, place
    finally:
        place.close()
        own.running.close()


def test_times_are_in_utc(alone):
    """Even if the database has another time zone."""
    place = alone(KINDS["procrastinate"])
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(place.url) as connection:
        connection.execute(
            f"ALTER DATABASE {place.queue} SET TimeZone = 'Asia/Kathmandu'"
        )
    job = place.jobs.status(place.jobs.enqueue("echo", delay=60))
    now = datetime.now(timezone.utc)
    for moment, seconds in ((job.enqueued_at, 0), (job.due_at, 60)):
        assert moment.tzinfo is timezone.utc
        assert abs((moment - now).total_seconds() - seconds) < 10
