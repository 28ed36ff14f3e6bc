"""Who hears what becomes of each call: ``Observer``, and the log. Who sees the jobs:
``JobObserver``."""

from ._job_observer import JobAttempt, JobObserver
from ._observer import Observer

__all__ = ["JobAttempt", "JobObserver", "Observer"]
