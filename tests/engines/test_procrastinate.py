"""What only Procrastinate on PostgreSQL can get wrong."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .kinds import KINDS, Place
from .services import Postgres

if "procrastinate" not in KINDS:
    pytest.skip("Procrastinate is not installed", allow_module_level=True)


@pytest.mark.parametrize("how", ["down", "frozen"])
def test_an_idle_worker_ends_without_its_server(how):
    """It has nothing to say that the server must hear."""
    Postgres.skip_unless_installed()

    class Own:  # a server of this test alone
        running = Postgres()

        def get(self, _):
            return self.running

    place = Place(KINDS["procrastinate"], Own())
    frozen = []
    try:
        workers = place.work(1)
        place.wait(place.jobs.enqueue("echo"))
        if how == "down":
            Own.running.stop()
        else:
            for process in Own.running.processes:
                path = f"/proc/{process.pid}/task/{process.pid}/children"
                with open(path) as file:
                    frozen += [process.pid, *map(int, file.read().split())]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)  # it has looked for jobs in vain
        begin = time.monotonic()
        workers.terminate()
        workers.supervisor.wait(60)
        assert time.monotonic() - begin < 30, place
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        place.close()
        Own.running.close()
