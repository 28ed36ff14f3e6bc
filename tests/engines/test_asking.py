"""Cancelling, counting and listing, on every engine that can."""

from __future__ import annotations

import random
import threading
from collections import Counter
from uuid import uuid4

import pytest

from wsgi_defer.jobs import JobNotWaitingError, NotSupported, UnknownJobError

from .kinds import KINDS, kinds


@pytest.mark.ahead
@kinds("recent")
def test_what_waits_is_cancelled(alone, kind):
    """A queued job, one with a delay, and one between two attempts; none of them runs,
    whatever runs afterwards. The id stays taken until the job is forgotten."""
    place = alone(kind)
    queued = place.jobs.enqueue("echo", 1)
    assert place.jobs.cancel(queued) == queued
    later = place.jobs.enqueue("echo", 1, delay=1)
    place.jobs.cancel(later)
    place.work()
    between = place.jobs.enqueue("rests")
    place.wait(between, "scheduled")
    place.jobs.cancel(between)
    place.jobs.enqueue("echo", 2, job_id=queued)
    place.wait(place.jobs.enqueue("echo", 1, delay=2))
    for job_id, attempts in ((queued, 0), (later, 0), (between, 1)):
        job = place.jobs.status(job_id)
        assert (job.state, job.attempts) == ("cancelled", attempts), place
        assert job.finished_at >= job.enqueued_at
        place.jobs.cancel(job_id)  # changes nothing
        assert place.jobs.status(job_id) == job
    assert place.times("echo", queued) == place.times("echo", later) == []
    cancelled = [job.id for job in place.jobs.recent(state="cancelled")]
    assert cancelled == [between, later, queued]
    assert place.jobs.failed() == []
    assert place.jobs.counts()["cancelled"] == 3
    if kind.can("clear"):
        assert place.jobs.clear(0) == 4
        assert place.jobs.status(queued) is None
        place.jobs.enqueue("echo", 3, job_id=queued)
        assert place.wait(queued).result == 3


@kinds("recent")
def test_what_does_not_wait_is_not_cancelled(shared, kind, tmp_path):
    """One that runs, is done, has failed, or is not there: the error says so."""
    place = shared(kind)
    gate = tmp_path / "gate"
    held = place.jobs.enqueue("held", str(gate))
    place.wait(held, "running")
    done, failed = place.jobs.enqueue("echo", 1), place.jobs.enqueue("fails", 1)
    for job_id, state in ((done, "done"), (failed, "failed"), (held, "running")):
        place.wait(job_id, state)
        with pytest.raises(
            JobNotWaitingError, match=f"'{job_id}' is {state}; only one"
        ):
            place.jobs.cancel(job_id)
        assert place.jobs.status(job_id).state == state
    gate.touch()
    assert place.wait(held).state == "done"
    for unknown in ("none", uuid4().hex, "not an id", 3):
        with pytest.raises(UnknownJobError):
            place.jobs.cancel(unknown)


@kinds("recent")
def test_a_cancelled_job_never_runs_though_workers_are_about_to_start_it(shared, kind):
    """Of a worker and a client, one wins: what was cancelled has not run, and the rest
    has, once. Half of the jobs become due at that moment."""
    place = shared(kind)
    ids = [place.jobs.enqueue("echo", 1, delay=number % 2) for number in range(40)]
    random.Random(7).shuffle(ids)
    won = set()

    def cancel(some):
        for job_id in some:
            try:
                won.add(place.jobs.cancel(job_id))
            except JobNotWaitingError:
                pass

    threads = [threading.Thread(target=cancel, args=[ids[n::2]]) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [place.wait(job_id, "done", "cancelled") for job_id in ids]
    place.wait(place.jobs.enqueue("echo", 1, delay=1))
    assert {job.id for job in jobs if job.state == "cancelled"} == won
    runs = Counter({job_id: len(place.times("echo", job_id)) for job_id in ids})
    assert runs == {job_id: job_id not in won for job_id in ids}
    assert [place.jobs.status(job.id).state for job in jobs] == [j.state for j in jobs]


@pytest.mark.ahead
@kinds("recent")
def test_counts_and_lists_by_name_and_state(alone, kind):
    """Each job counts once, however many attempts and retries it has had."""
    place = alone(kind)
    assert set(place.jobs.counts().values()) == {0}
    assert place.jobs.counts(by_name=True) == {}
    # One, which is busy when it is killed: Redis may hand a job to an idle one that was
    # killed a moment ago.
    place.work(processes=1)
    path = place.root / "there"
    again = place.jobs.enqueue("until", str(path))
    place.wait(again, "failed")
    path.touch()
    place.jobs.retry(again)
    done = [again, place.jobs.enqueue("flaky", 1), place.jobs.enqueue("echo", 1)]
    for job_id in done:
        place.wait(job_id, "done")
    failed = [place.jobs.enqueue("fails", 1), place.jobs.enqueue("hasty", 1)]
    for job_id in failed:
        place.wait(job_id, "failed")
    held = place.jobs.enqueue("held", str(place.root / "gate"))
    place.wait(held, "running")
    place.workers.kill()  # it counts as running for a while
    queued = [place.jobs.enqueue("echo", number) for number in range(3)]
    later = place.jobs.enqueue("echo", 1, delay=300)
    place.jobs.cancel(queued[1])
    expected = {"queued": 2, "scheduled": 1, "running": 1, "done": 3, "failed": 2,
                "cancelled": 1}  # fmt: skip
    assert place.jobs.counts() == expected
    by_name = place.jobs.counts(by_name=True)
    assert [*by_name] == sorted(by_name)
    short = {name: {state: n for state, n in counts.items() if n}
             for name, counts in by_name.items()}  # fmt: skip
    assert short == {
        "echo": {"queued": 2, "scheduled": 1, "done": 1, "cancelled": 1},
        "fails": {"failed": 1}, "hasty": {"failed": 1}, "held": {"running": 1},
        "flaky": {"done": 1}, "until": {"done": 1},
    }  # fmt: skip

    def ids(**asked):
        return [job.id for job in place.jobs.recent(**asked)]

    assert ids(state="queued") == [queued[2], queued[0]]
    assert ids(state="queued", limit=1) == [queued[2]]
    assert ids(name="echo") == [later, *queued[::-1], done[2]]
    assert ids(name="echo", state="done") == [done[2]]
    assert ids(name="echo", limit=2) == [later, queued[2]]
    assert ids(name="Echo") == ids(name="ech_") == ids(name="echo.more") == []
    assert ids(state="failed") == failed[::-1]
    assert ids(state="failed", name="fails") == failed[:1]
    assert ids(state="running") == [held]
    assert [job.id for job in place.jobs.failed(name="hasty")] == failed[1:]
    assert place.jobs.failed(name="echo") == []
    assert place.jobs.failed(limit=0, name="hasty") == []


@pytest.mark.ahead
@kinds("recent")
def test_all_failed_jobs_are_queued_again(alone, kind):
    """All of a name, or all; the number tells how many."""
    place = alone(kind)
    place.work()
    path = place.root / "there"
    waiting = [place.jobs.enqueue("until", str(path)) for _ in range(3)]
    failed = place.jobs.enqueue("fails", 1)
    for job_id in (*waiting, failed):
        place.wait(job_id, "failed")
    path.touch()
    assert place.jobs.retry_all("echo") == 0
    assert place.jobs.retry_all("until") == 3
    for job_id in waiting:
        assert place.wait(job_id).state == "done"
    assert len(place.times("fails", failed)) == 1
    assert place.jobs.retry_all() == 1
    place.until(lambda: len(place.times("fails", failed)) == 2, "it ran again")


@pytest.mark.parametrize(
    "kind", [k for k in KINDS.values() if not k.can("recent")], ids=str
)
@pytest.mark.parametrize("ask", ["counts", "failed", "recent", "retry_all", "cancel"])
def test_celery_refuses_in_plain_words(shared, kind, ask):
    """And says what to do instead."""
    jobs = shared(kind).jobs
    with pytest.raises(NotSupported, match=r"^Celery on RabbitMQ cannot .*\. \w"):
        getattr(jobs, ask)(*["a"] if ask == "cancel" else [])
