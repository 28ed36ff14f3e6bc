"""What is asked about jobs, by the engine in memory."""

from __future__ import annotations

import pytest

from wsgi_defer import deferring
from wsgi_defer.jobs import JobNotWaitingError, Jobs, UnknownJobError
from wsgi_defer.jobs._job import STATES


@pytest.fixture
def jobs():
    made = Jobs(None)

    @made.handler("works")
    def works(payload):
        return payload

    @made.handler("fails")
    def fails(payload):
        if payload is not None:
            raise ValueError(payload)

    return made


def test_a_job_that_waits_for_the_response_is_cancelled(jobs, ran):
    """It never runs; what runs or has ended is not cancelled."""
    jobs.handler("notes")(ran.append)
    with deferring():
        first, second = jobs.enqueue("notes", 1), jobs.enqueue("notes", 2)
        assert jobs.cancel(first) == first
        assert jobs.status(first).state == "cancelled"
        jobs.cancel(first)
    assert ran == [2]
    assert jobs.status(first).state == "cancelled"
    with pytest.raises(JobNotWaitingError) as caught:
        jobs.cancel(second)
    assert (caught.value.job_id, caught.value.state) == (second, "done")
    for unknown in ("none", "", None):
        with pytest.raises(UnknownJobError):
            jobs.cancel(unknown)


def test_counts(jobs):
    """All states are there; by name, only names that have jobs."""
    assert jobs.counts() == dict.fromkeys(STATES, 0)
    assert jobs.counts(by_name=True) == {}
    jobs.enqueue("works")
    jobs.enqueue("fails", 1)
    jobs.enqueue("fails", 2)
    assert jobs.counts() == {**dict.fromkeys(STATES, 0), "done": 1, "failed": 2}
    by_name = jobs.counts(by_name=True)
    assert [*by_name] == ["fails", "works"]
    assert by_name["fails"]["failed"] == 2
    assert by_name["works"]["failed"] == 0


def test_lists_by_name_and_state(jobs):
    """The limit holds for what is asked for."""
    works = [jobs.enqueue("works") for _ in range(3)]
    fails = [jobs.enqueue("fails", 1) for _ in range(3)]
    assert [job.id for job in jobs.recent(name="works", limit=2)] == works[:0:-1]
    assert [job.id for job in jobs.recent(state="failed")] == fails[::-1]
    assert [job.id for job in jobs.failed(name="fails", limit=1)] == fails[2:]
    assert jobs.failed(name="works") == jobs.recent(state="running") == []
    with pytest.raises(ValueError, match=r"state is one of queued, .*; not 'lost'"):
        jobs.recent(state="lost")
    with pytest.raises(ValueError, match="a name is like"):
        jobs.failed(name="no name")


def test_retry_all(jobs):
    """Of one name, or of all; each only once, though it fails again."""
    jobs.enqueue("fails", 1)
    jobs.enqueue("fails", 2)
    assert jobs.retry_all("works") == 0
    assert jobs.retry_all() == 2
    assert jobs.retry_all(name="fails") == 2


def test_retry_all_goes_on_if_somebody_else_was_faster(jobs, monkeypatch):
    """Such a job does not count."""
    first, _ = jobs.enqueue("fails", 1), jobs.enqueue("fails", 2)
    listed = jobs.failed()
    monkeypatch.setattr(jobs.engine, "failed", lambda limit, name: listed)
    del jobs.engine.known[first]
    assert jobs.retry_all() == 1


def test_a_captured_job_can_be_cancelled(jobs):
    """As a view under test may do."""
    with jobs.captured():
        job_id = jobs.enqueue("works", delay=60)
        jobs.cancel(job_id)
        assert jobs.status(job_id).state == "cancelled"
