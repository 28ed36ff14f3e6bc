"""A machine that vanishes while it runs a job."""

from __future__ import annotations

from contextlib import closing

import pytest

from ..engines.kinds import KINDS, Place, Servers
from ..engines.services import Postgres, Rabbit
from .machines import Machine, NetPostgres, NetRabbit

ON_NET = {Postgres: NetPostgres, Rabbit: NetRabbit}
# Seconds after which its jobs run elsewhere, as docs/jobs/engines.md says.
STATED = {"procrastinate": 40, "dbos+postgresql": 90, "celery": 100}


class OnNet(Servers):
    """The servers, where another machine reaches them."""

    def get(self, server):
        return super().get(ON_NET[server])


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def place(machine, kind):
    with closing(OnNet()) as servers, closing(Place(kind, servers)) as place:
        yield place


@pytest.mark.parametrize(
    "kind", [kind for name, kind in KINDS.items() if name in STATED], ids=str
)
def test_its_jobs_run_elsewhere(place, machine):
    """The server never hears that its connections have ended."""
    gate = place.root / "gate"
    gone = machine.call(place.work, 1)
    job_id = place.jobs.enqueue("held", str(gate))
    place.until(lambda: place.times("start", job_id), "its start")
    machine.vanish()
    gone.kill()
    place.work(1)
    other = place.jobs.enqueue("echo")
    place.until(lambda: place.times("echo", other), "the other machine works")
    place.until(lambda: len(place.times("start", job_id)) == 2, "again",
                STATED[place.kind.name])  # fmt: skip
    gate.touch()
    place.until(lambda: place.times("end", job_id), "its end")
    first, second = place.times("start", job_id)
    print(f"{place.kind}: {second - first:.0f} s")
