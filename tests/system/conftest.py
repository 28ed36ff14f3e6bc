"""Fixtures of the system tests."""

from __future__ import annotations

import pytest

from wsgi_defer.jobs import Jobs


@pytest.fixture
def jobs(tmp_path):
    """Jobs in a file of their own, with a handler that is never run."""
    jobs = Jobs(f"sqlite:///{tmp_path}/jobs.db")
    jobs.handler("mail.welcome", attempts=3)(print)
    yield jobs
    jobs.engine.close()
