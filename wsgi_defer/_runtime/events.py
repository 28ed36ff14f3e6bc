"""The catalogue of what the log ``wsgi_defer`` tells: each event, its level and fields.

The fields are attributes of the log record, named ``wsgi_defer_`` and the name here, so
that a formatter for JSON gets facts and not prose. Every record has ``event`` and
``worker`` besides. ``docs/observe.md`` shows each line and what to do about it; a test
compares the two.
"""

from __future__ import annotations

from logging import DEBUG, ERROR, INFO, WARNING
from typing import NamedTuple, TypedDict


class Event(NamedTuple):
    """Something that is logged. ``fields`` are the names of its facts."""

    name: str
    level: int
    fields: frozenset[str]


class Facts(TypedDict, total=False):
    """What is known of an event. A fact that is None is left out of the record.

    Times are in seconds. Never arguments of a call, nor the payload of a job.
    """

    worker: int | None  # process id; if not given, that of this process
    call: str
    kind: str  # "deferred" or "before_response"
    origin: str  # the line that deferred it, as file:line
    request_id: str | None
    status: int | None  # of the response
    waited: float | None
    ran: float | None
    why: str
    error: str  # the name of a class; report.failure() adds it
    calls: int  # how many
    running: str  # names of calls
    left: float  # until the worker is killed
    observer: str
    method: str
    app: str
    task: str
    pool: str
    job: str  # the name of its handler
    job_id: str | None
    attempt: int  # the first one is 1
    outcome: str  # of an attempt: done, failed, again
    again_in: float | None
    schedule: str
    engine: str
    queue: str
    slot: str


def _event(name: str, level: int, fields: str = "") -> Event:
    return Event(name, level, frozenset(fields.split()))


_CALL = "call kind origin request_id status waited ran "
_JOB = "job job_id attempt "

# What becomes of calls.
FINISHED = _event("finished", DEBUG, _CALL)
FAILED = _event("failed", ERROR, _CALL + "error")
SKIPPED = _event("skipped", DEBUG, _CALL + "why")
SLOW = _event("slow", WARNING, _CALL)
OVERRAN = _event("overran", WARNING, _CALL)
LOST = _event("lost", ERROR, _CALL + "why")
STOPPING = _event("stopping", WARNING, "calls running left")
LOST_UNNAMED = _event("lost_unnamed", ERROR, "calls why")
LOST_IN_ALL = _event("lost_in_all", ERROR, "calls")

# The app's own code, or its settings.
CALLBACK_FAILED = _event("callback_failed", ERROR, "call task error")
OBSERVER_FAILED = _event("observer_failed", ERROR, "observer method error")
ARGUMENT = _event("argument", WARNING, "call kind origin why")
BARE_FLASK = _event("bare_flask", WARNING, "app")
THREADS_IGNORED = _event("threads_ignored", WARNING)
TOO_MANY_WORKERS = _event("too_many_workers", WARNING)
THREADS_ABANDONED = _event("threads_abandoned", WARNING, "pool")

# Our own code. Please report these.
HOOK_FAILED = _event("hook_failed", ERROR, "error")
BACKGROUND_FAILED = _event("background_failed", ERROR, "error")
WAIT_FAILED = _event("wait_failed", ERROR, "error")
POOL_FAILED = _event("pool_failed", ERROR, "pool error")
DEADLINE_FAILED = _event("deadline_failed", ERROR, "error")
TASK_NOT_ENDED = _event("task_not_ended", ERROR, "task error")
LOOP_STOPPED = _event("loop_stopped", DEBUG, "error")
HALF_CLOSE_FAILED = _event("half_close_failed", DEBUG, "error")

# Jobs.
JOB_ATTEMPT = _event("job_attempt", INFO, _JOB + "outcome waited ran again_in")
JOB_RETRIED = _event("job_retried", WARNING, _JOB + "error")
JOB_FAILED = _event("job_failed", ERROR, _JOB + "error")
JOB_GIVEN_UP = _event("job_given_up", ERROR, _JOB + "why")
JOB_RESCUED = _event("job_rescued", WARNING, "job_id slot")
JOB_NOT_DUE = _event("job_not_due", INFO, "job job_id")
JOB_LEFT_OUT = _event("job_left_out", WARNING, "job job_id")
JOB_HANGS = _event("job_hangs", ERROR, "error")
JOB_NOT_STORED = _event("job_not_stored", ERROR, "error")
JOB_WAITS = _event("job_waits", WARNING, _JOB)
JOB_STAYS = _event("job_stays", WARNING, _JOB + "error")
JOB_REFUSED = _event("job_refused", ERROR)
RESULT_DROPPED = _event("result_dropped", WARNING, "job job_id error")
STATUS_OLD = _event("status_old", WARNING, "job_id error")
STATUS_LEFT = _event("status_left", WARNING, "job_id error")
PROGRESS_DROPPED = _event("progress_dropped", WARNING, "error")
HANDLER_MISSING = _event("handler_missing", WARNING, "job")
SCHEDULE_FAILED = _event("schedule_failed", ERROR, "schedule error")

# The workers and engines of jobs.
JOBS_STARTED = _event("jobs_started", INFO, "engine")
JOBS_SERVED = _event("jobs_served", INFO, "queue")
JOBS_SCHEDULE = _event("jobs_schedule", INFO)
JOBS_STOPPED = _event("jobs_stopped", INFO)
JOBS_PROCESS_ENDED = _event("jobs_process_ended", WARNING, "slot again_in")
JOBS_UNAVAILABLE = _event("jobs_unavailable", WARNING, "engine error")
JOBS_IN_MEMORY = _event("jobs_in_memory", WARNING)
JOBS_MOVED = _event("jobs_moved", WARNING)
JOBS_NOT_CLEARED = _event("jobs_not_cleared", WARNING, "slot")
ROWS_FOREIGN = _event("rows_foreign", WARNING)
SLOT_SILENT = _event("slot_silent", WARNING, "slot")
RESCUE_FAILED = _event("rescue_failed", WARNING, "error")
LEAVING_FAILED = _event("leaving_failed", WARNING, "error")

CATALOGUE = {
    event.name: event for event in tuple(vars().values()) if isinstance(event, Event)
}
