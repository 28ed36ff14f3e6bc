"""What a worker says, and a job's progress, on every engine."""

from __future__ import annotations

import re

import pytest

from wsgi_defer.jobs import Progress

from .kinds import KINDS, PATIENCE, kinds


@kinds()
def test_the_worker_says_what_it_does(alone, kind):
    """Where it is, without a password; a line for each attempt that ends, in a pipe
    without colours; and in the end what was done."""
    place = alone(kind)
    place.work()
    ids = [
        place.jobs.enqueue("echo", 1),
        place.jobs.enqueue("fails", "SECRET"),
        place.jobs.enqueue("flaky", 1),
        place.jobs.enqueue("echo", 1, delay=1),
    ]

    def text():
        return (place.root / "output").read_text()

    def line(job_id, attempt, outcome):
        """The line of that attempt, which has waited since it was due."""
        pattern = (
            rf" INFO wsgi_defer: (\w+) {job_id} attempt {attempt}: {outcome} "
            r"\(waited (\d+\.\d{3}) s, ran (\d+\.\d{3}) s\)$"
        )
        found = place.until(
            lambda: re.search(pattern, text(), re.M), f"{outcome} {job_id}"
        )
        assert float(found[2]) < PATIENCE
        return found

    assert line(ids[0], 1, "done")[1] == "echo"
    assert line(ids[1], 1, "failed")[1] == "fails"
    assert line(ids[2], 1, "again in 1 s")[1] == "flaky"
    assert line(ids[2], 2, "done")
    assert line(ids[3], 1, "done")
    place.workers.terminate()
    assert place.workers.supervisor.wait(PATIENCE) == 0
    first, second, *_, last = text().splitlines()
    assert re.search(r"INFO wsgi_defer: wsgi_defer \S+, \w+ on \w+: ", first)
    where = f"{place.root}/jobs.db" if kind.server is None else str(
        place.servers.get(kind.server).port)  # fmt: skip
    assert where in first
    assert "@" not in first
    assert f"queue {place.queue}; handlers deadly, " in second
    assert ", echo, fails, " in second
    assert second.endswith("; 2 processes, 1 thread each")
    assert last.endswith(
        "stopped: 3 done, 1 failed, 1 to be tried again, 0 given back unfinished"
    )
    assert "\x1b" not in text()
    assert "SECRET" not in re.sub(r"ValueError: no SECRET", "", text())


@kinds("status")
def test_progress_is_seen_while_the_job_runs(shared, kind, tmp_path):
    """That of the attempt that runs, and of no other."""
    place = shared(kind)
    job_id = place.jobs.enqueue("tells", f"{tmp_path}/")
    job = place.until(
        lambda: (job := place.jobs.status(job_id)).progress.done and job, "progress"
    )
    assert job.state == "running"
    assert job.progress == Progress(3, 12, "käse \x00")
    assert job.to_dict()["progress"] == {"done": 3, "total": 12, "note": "käse \x00"}
    place.jobs.engine.progress(job_id, 1, Progress(5, 12))
    assert place.jobs.status(job_id).progress == Progress(5, 12)
    (tmp_path / "1").touch()
    place.until(lambda: len(place.times("start", job_id)) == 2, "the second attempt")
    job = place.jobs.status(job_id)
    assert (job.state, job.attempts, job.progress) == ("running", 2, Progress())
    (tmp_path / "2").touch()
    assert place.wait(job_id).progress == Progress()


@pytest.mark.parametrize(
    "kind", [k for k in KINDS.values() if k.name == "celery"], ids=str
)
def test_celery_without_results_refuses_progress(shared, kind, tmp_path):
    """In the handler, whose attempts fail."""
    place = shared(kind)
    job_id = place.jobs.enqueue("tells", str(tmp_path))
    output = place.root / "output"
    place.until(
        lambda: "NotSupported: Celery on RabbitMQ cannot keep the progress of a job. "
        "Jobs(url, results=" in output.read_text(), "a refusal",
    )  # fmt: skip
    # The second attempt may have started by now; it tells nothing.
    assert ["start", job_id, "1"] not in [words[:3] for words in place.notes]
