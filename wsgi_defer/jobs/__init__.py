"""Jobs: promised work, which a queue engine keeps until it is done.

See ``Jobs``, and README.md in this directory.
"""

from ._job import Job
from ._jobs import Jobs
from ._progress import Progress
from ._testing import Captured
from .errors import (
    JobNotFailedError,
    JobNotWaitingError,
    JobsUnavailable,
    JobTimeLimitError,
    NotSupported,
    PayloadError,
    UnknownHandlerError,
    UnknownJobError,
)

__all__ = [
    "Captured",
    "Job",
    "JobNotFailedError",
    "JobNotWaitingError",
    "JobTimeLimitError",
    "Jobs",
    "JobsUnavailable",
    "NotSupported",
    "PayloadError",
    "Progress",
    "UnknownHandlerError",
    "UnknownJobError",
]
