"""A short run of outbox.py; ``python -m tests.engines.outbox URL`` is the long one."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import pytest

from wsgi_defer.jobs import Jobs

from . import outbox

pytestmark = pytest.mark.ahead


def run(mode, requests, every=outbox.KILL_EVERY):
    """Run it with a new file, if the embedded engine can run here."""
    with TemporaryDirectory(prefix="outbox-") as folder:
        url = f"sqlite:///{folder}/jobs.db"
        try:
            Jobs(url)
        except (ImportError, ValueError) as error:
            pytest.skip(f"the embedded engine: {error}")
        return outbox.run(url, mode, requests, every=every)


@pytest.mark.promise("I5")
def test_a_held_job_is_there_if_and_only_if_the_client_was_told():
    """While workers are killed, and one request in five fails after its enqueue()."""
    count = run("held", 400, every=0.1)
    assert count.kills > 3
    assert count.acknowledged > 200
    assert count.missing == []
    assert count.unwanted == []


def test_without_holding_there_are_jobs_of_failed_requests():
    """This shows that the test above can fail."""
    count = run("now", 100)
    assert count.missing == []
    assert len(count.unwanted) > 10
