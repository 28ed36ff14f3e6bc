"""A short run of outbox.py; ``python -m tests.engines.outbox URL`` is the long one."""

from __future__ import annotations

import pytest

from wsgi_defer.jobs import Jobs

from . import outbox


@pytest.fixture
def url(tmp_path):
    """A file of jobs, if the embedded engine can run here."""
    found = f"sqlite:///{tmp_path}/jobs.db"
    try:
        Jobs(found)
    except (ImportError, ValueError) as error:
        pytest.skip(f"the embedded engine: {error}")
    return found


def test_a_held_job_is_there_if_and_only_if_the_client_was_told(url):
    """While workers are killed, and one request in five fails after its enqueue()."""
    count = outbox.run(url, "held", 400)
    assert count.kills > 3
    assert count.acknowledged > 200
    assert count.missing == []
    assert count.unwanted == []


def test_without_holding_there_are_jobs_of_failed_requests(url):
    """So the test above can fail."""
    count = outbox.run(url, "now", 100)
    assert count.missing == []
    assert len(count.unwanted) > 10
