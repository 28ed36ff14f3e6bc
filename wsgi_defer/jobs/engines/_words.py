"""What all engines say in the same words: in errors, in logs and about jobs."""

from __future__ import annotations

from .._job import MOST_CRASHES

# What NotSupported says an engine cannot do, by the name of the method.
CANNOT = {
    "delay": "delay a job",
    "status": "tell a job's status",
    "failed": "list jobs",
    "recent": "list jobs",
    "counts": "count jobs",
    "cancel": "cancel a job",
    "retry": "queue a failed job again",
    "clear": "clear done jobs",
    "progress": "keep the progress of a job",
    "every": "run jobs by a schedule, as it does not know a job's id again",
    "work": "have workers",
    "threads": "run several jobs at a time in one process",
}

# What JobsUnavailable says has failed.
READING = "reading a job's status"
LISTING = "listing the jobs"
LISTING_FAILED = "listing the failed jobs"
COUNTING = "counting the jobs"
CANCELLING = "cancelling a job"
RETRYING = "queueing a job again"
CLEARING = "clearing done jobs"
STORING_PROGRESS = "storing a job's progress"
STARTING = "starting a worker"
STORING_OUTCOME = "storing a job's outcome"
RESCUING = "queueing the jobs of a dead worker again"


def storing(name: str) -> str:
    """The same, for a job of that name."""
    return f"storing a job for {name}"


def storing_many(count: int) -> str:
    """The same, for several jobs."""
    return f"storing {count} jobs"


def died(times: int = MOST_CRASHES + 1) -> str:
    """The error of a job that is not started again after that many deaths."""
    return f"its worker died, or was killed, {times} times"
