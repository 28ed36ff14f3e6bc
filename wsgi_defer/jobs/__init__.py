"""Work that was promised to somebody, kept by a queue engine until it is done.

See ``Jobs``, and README.md beside this file.
"""

from ._job import Job
from ._jobs import Jobs
from ._memory import Captured
from .errors import (
    JobNotFailedError,
    JobsUnavailable,
    NotSupported,
    PayloadError,
    UnknownHandlerError,
    UnknownJobError,
)

__all__ = [
    "Captured",
    "Job",
    "JobNotFailedError",
    "Jobs",
    "JobsUnavailable",
    "NotSupported",
    "PayloadError",
    "UnknownHandlerError",
    "UnknownJobError",
]
