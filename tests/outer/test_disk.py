"""SQLite on a disk that is full, and then is not."""

from __future__ import annotations

import os
import subprocess

import pytest

from wsgi_defer.jobs import JobsUnavailable

from ..engines.kinds import KINDS, PATIENCE, Place
from ..helpers.waiting import until

SIZE = "8m"


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "wsgi_defer", path]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root mounts a small disk, and not everywhere")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(path):
    """Take all the room that there is."""
    with (path / "filler").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def enqueued(place, job_id):
    """Whether the job could be enqueued."""
    try:
        place.jobs.enqueue("echo", "x" * 5000, job_id=job_id)
    except JobsUnavailable:
        return False
    return True


def test_no_acknowledged_job_is_lost_on_a_full_disk(disk):
    """Jobs are refused while it is full; then all goes on by itself."""

    class OnDisk(Place):
        def _url(self):
            return f"sqlite:///{disk}/jobs.db"

    place = OnDisk(KINDS["sqlite"], None)
    try:
        workers = place.work(2)
        place.wait(place.jobs.enqueue("echo"))
        gate = place.root / "gate"
        running = [place.jobs.enqueue("held", str(gate)) for _ in range(2)]
        place.until(lambda: all(place.times("start", j) for j in running), "starts")
        fill(disk)
        taken, refused = [], 0
        for number in range(2000):
            if enqueued(place, f"full-{number}"):
                taken.append(f"full-{number}")
            else:
                refused += 1
                if refused == 5:
                    break
        assert refused == 5
        gate.touch()  # they end when that cannot be stored
        place.until(lambda: all(place.times("end", j) for j in running), "ends")
        (disk / "filler").unlink()
        until(lambda: enqueued(place, "after"), "room again", PATIENCE)
        for job_id in [*running, *taken, "after"]:
            assert place.wait(job_id).state == "done"
        assert workers.supervisor.poll() is None
        assert len(place.jobs.recent(limit=1000)) == len(taken) + 4
    finally:
        place.close()
