"""One job: what an engine is given to store, and what it tells about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from ._progress import NOTHING, Progress
from .errors import PayloadError

State = Literal["queued", "scheduled", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)

# Ids are part of URLs, keys and command lines.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", re.ASCII)
_LONGEST_NAME = 100
# How often a job is started again after its worker has died. Without a limit, a job
# that kills its worker would do so forever.
MOST_CRASHES = 10


@dataclass(frozen=True)
class Job:
    """What is known of a job at this moment. Times are in UTC.

    ``state`` is "queued"; "scheduled", if it waits for its delay or its next attempt;
    "running"; "done"; "failed", after its last attempt; or "cancelled". ``attempts``
    counts those that have started. ``error`` is what the last one raised: the
    exception's class and text. ``result`` is what the handler returned, if that is
    JSON. ``progress`` is what a running one tells.
    """

    id: str
    name: str
    state: State
    attempts: int = 0
    error: str | None = None
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: Any = None
    progress: Progress = NOTHING
    # JSON, for code that keeps more in it than arguments; never shown, and None where
    # the engine does not tell it.
    payload: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.payload is not None and "\n" in self.payload:  # see _carrier.py
            object.__setattr__(self, "payload", self.payload.partition("\n")[0])

    def to_dict(self) -> dict[str, Any]:
        """All but the payload as JSON: times are ISO 8601."""
        fields = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in vars(self).items()
            if name != "payload"
        }
        return {**fields, "progress": self.progress.to_dict()}


@dataclass(frozen=True)
class Handler:
    """A function for the jobs of one name, and how often it is tried."""

    name: str
    fn: Callable[..., Any]
    attempts: int
    backoff: float
    max_backoff: float
    pass_job: bool
    time_limit: float | None = None

    def wait_after(self, attempt: int) -> float:
        """Seconds between the failure of that attempt, from 1 on, and the next."""
        # The exponent has a limit, too: 2.0 ** 1024 is an OverflowError.
        return min(self.backoff * 2.0 ** min(attempt - 1, 60), self.max_backoff)

    @property
    def waits(self) -> list[float]:
        """All seconds between its attempts, in order."""
        return [self.wait_after(attempt) for attempt in range(1, self.attempts)]


@dataclass(frozen=True)
class Order:
    """A job for an engine to store.

    ``payload`` is JSON, as text, in one line. What travels with it may be a second one.
    """

    id: str
    handler: Handler
    payload: str
    delay: float

    @property
    def name(self) -> str:
        return self.handler.name


def to_json(name: str, payload: object, max_size: int) -> str:
    """The payload as text. Raises ``PayloadError`` if it would come back changed."""
    try:
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
        same = json.loads(text) == payload
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(name, f"is not JSON ({type(error).__name__})") from None
    if not same:
        raise PayloadError(
            name, "is not JSON: it would come back changed (keys must be strings, and "
            "tuples become lists)"
        )  # fmt: skip
    # Only ASCII: one character is one byte.
    if len(text) > max_size:
        raise PayloadError(name, f"has {len(text)} bytes, {max_size} are allowed")
    return text


def describe(error: BaseException) -> str:
    """What ``Job.error`` says: the class and the text, not the traceback."""
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be read"
    return f"{type(error).__name__}: {text}"[:1000]


def utc(seconds: float | None) -> datetime | None:
    """A Unix time as a ``datetime``."""
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def check_id(job_id: str) -> str:
    """Refuse anything but an id. Raises ``TypeError`` and ``ValueError``."""
    if not isinstance(job_id, str):
        raise TypeError(f"a job's id is a str, not {type(job_id).__name__}")
    if not _ID.fullmatch(job_id):
        raise ValueError(
            "a job's id has 1 to 64 letters, digits and . _ - and starts with a letter "
            f"or a digit; not {job_id[:80]!r}"
        )
    return job_id


def is_id(job_id: object) -> bool:
    """Whether it could be the id of a job."""
    return isinstance(job_id, str) and _ID.fullmatch(job_id) is not None


def check_name(name: str) -> str:
    """Refuse anything but a handler's name. Raises ``TypeError``, ``ValueError``."""
    if not isinstance(name, str):
        raise TypeError(f"a handler's name is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            'a name is like "mail.welcome", with at most '
            f"{_LONGEST_NAME} letters, digits, _ and - ; not {name[:120]!r}"
        )
    return name
