"""When the jobs of one name are due, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from importlib import import_module
from typing import Any
from zlib import crc32
from zoneinfo import ZoneInfo

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
STAMP = "%Y%m%dT%H%M%SZ"
LONGEST = 36  # characters of a name in an id, which has 64 at most


@dataclass(frozen=True)
class Schedule:
    """The times at which the job of a name is due.

    ``every`` is a cron expression, in the time of a zone; or a ``timedelta``, whose
    times are its multiples since 1970 in UTC, so that all processes agree.
    """

    name: str
    every: str | timedelta
    zone: tzinfo = UTC
    payload: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.every, str):
            cron().check(self.every)
        elif not isinstance(self.every, timedelta):
            raise TypeError(f"every() takes a cron expression or a timedelta, not "
                            f"{self.every!r:.100}")  # fmt: skip
        elif self.every < SECOND or self.every % SECOND:
            raise ValueError(
                f"every() takes whole seconds, from 1 on, not {self.every}"
            )
        elif self.zone is not UTC:
            raise ValueError("only a cron expression has a time zone")

    def after(self, moment: datetime) -> datetime:
        """The next time after that moment, in UTC."""
        if isinstance(self.every, str):
            due: datetime = cron().after(self.every, moment, self.zone)
            return due.astimezone(UTC)
        return EPOCH + ((moment - EPOCH) // self.every + 1) * self.every

    def until(self, moment: datetime) -> datetime:
        """The latest time that is not after that moment, in UTC."""
        if isinstance(self.every, str):
            due: datetime = cron().until(self.every, moment, self.zone)
            return due.astimezone(UTC)
        return EPOCH + (moment - EPOCH) // self.every * self.every

    def id(self, due: datetime) -> str:
        """The id of the job of that time: the same in all processes."""
        return f"{self._prefix}{due.astimezone(UTC):{STAMP}}"

    def is_stale(self, job_id: str) -> bool:
        """Whether it is the id of a time at which the job is not due any more."""
        if not job_id.startswith(self._prefix):
            return False
        try:
            due = datetime.strptime(job_id.removeprefix(self._prefix), STAMP)
        except ValueError:
            return False
        due = due.replace(tzinfo=UTC)
        return self.until(due) != due

    @property
    def _prefix(self) -> str:
        name = self.name
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 9]}-{crc32(name.encode()):08x}"
        return f"every-{name}-"

    def __str__(self) -> str:
        return f"{self.every} {self.zone}"


def zone_of(zone: str | tzinfo) -> tzinfo:
    """The time zone of that name. Raises ``ValueError``."""
    if isinstance(zone, tzinfo):
        return zone
    if zone == "UTC":
        return UTC
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"there is no time zone {zone!r:.100}; they are like 'Europe/Berlin', and "
            "need the system's package tzdata"
        ) from None


def cron() -> Any:
    """The module for cron expressions, which needs a package."""
    try:
        return import_module("._cron", __package__)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"cron expressions need the package {error.name!r}, which is not installed:"
            " pip install 'wsgi-defer[jobs]'"
        ) from error
