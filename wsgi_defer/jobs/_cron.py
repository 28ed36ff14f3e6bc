"""Cron expressions, by cronsim (https://github.com/cuu508/cronsim).

It does what Debian's cron does when the clocks change: a job at 2:30 runs once in each
night, also in the one that has no 2:30 and in the one that has two. croniter, which the
engines bring along, runs it twice in the latter.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo

from cronsim import CronSim, CronSimError

FIELDS = 5  # a sixth, of seconds, is new in cronsim 2.8
MINUTE = timedelta(minutes=1)


def check(expression: str) -> None:
    """Refuse what cannot be read, or never comes. Raises ``ValueError``."""
    try:
        if len(expression.split()) != FIELDS:
            raise CronSimError(f"it has not {FIELDS} fields")
        next(CronSim(expression, datetime(2026, 1, 1)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(
            f"{expression[:100]!r} is not like '*/5 * * * *', which has minute, hour, "
            f"day, month and day of the week ({str(error) or 'it never comes'})"
        ) from None


def after(expression: str, moment: datetime, zone: tzinfo) -> datetime:
    """The next time after that moment."""
    times = CronSim(expression, moment.astimezone(zone))
    # Where an hour comes twice, CronSim first gives times of it that have gone by.
    return next(due for due in times if _utc(due) > _utc(moment))


def until(expression: str, moment: datetime, zone: tzinfo) -> datetime:
    """The latest time that is not after that moment."""
    end = (moment + MINUTE).replace(second=0, microsecond=0)
    due: datetime = next(CronSim(expression, end.astimezone(zone), reverse=True))
    # Where the clocks go back at midnight, that leaves out times of the hour that is
    # there twice.
    while _utc(following := after(expression, due, zone)) <= _utc(moment):
        due = following
    return due


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)
