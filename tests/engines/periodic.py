"""The app of the tests of schedules: a job that is due every two seconds."""

from __future__ import annotations

from datetime import timedelta

from .app import jobs, note

EVERY = 2  # seconds


@jobs.every(timedelta(seconds=EVERY), name="tick", pass_job=True, payload={"a": 1})
def tick(payload, job):
    """Note for which time it is."""
    assert payload == {"a": 1}
    note("tick", job.id)
