"""What waits for a commit needs a framework that tells of it."""

from __future__ import annotations

import pytest

from wsgi_defer._runtime import commits
from wsgi_defer.jobs import Jobs


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.setattr(commits, "_installed", [])
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    return jobs


def test_none(jobs):
    """The error says what to do, and nothing is stored."""
    with jobs.captured() as stored:
        with pytest.raises(RuntimeError, match="INSTALLED_APPS"):
            jobs.enqueue("mail", after_commit=True)
        with pytest.raises(RuntimeError, match="INSTALLED_APPS"):
            jobs.enqueue_many([("mail", 1)], after_commit=True)
        with pytest.raises(ValueError, match="after_commit"):
            jobs.enqueue("mail", using="other")
        with pytest.raises(ValueError, match="after_commit"):
            jobs.enqueue_many([("mail", 1)], using="other")
    assert stored == []


def test_one(jobs):
    """It gets what is to run, and the name of the database."""
    waiting = []
    commits.install(lambda fn, using: waiting.append((fn, using)))
    with jobs.captured() as stored:
        job_id = jobs.enqueue("mail", 1, after_commit=True, using="other")
        assert stored == []
        [(store, using)] = waiting
        store()
    assert using == "other"
    assert [job.id for job in stored] == [job_id]


def test_several(jobs):
    """They wait as one."""
    waiting = []
    commits.install(lambda fn, using: waiting.append((fn, using)))
    with jobs.captured() as stored:
        pairs = [("mail", 1), ("mail", 2)]
        ids = jobs.enqueue_many(pairs, after_commit=True, using="other")
        assert stored == []
        [(store, using)] = waiting
        store()
    assert using == "other"
    assert [job.id for job in stored] == ids
