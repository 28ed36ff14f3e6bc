"""Cron expressions where the clocks change."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from wsgi_defer.jobs._schedule import Schedule

MINUTE = timedelta(minutes=1)
CHANGES = {  # in UTC
    "Europe/Berlin": [datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1)],
    "Africa/Cairo": [datetime(2026, 4, 23, 22), datetime(2026, 10, 29, 21)],
    # By half an hour
    "Australia/Lord_Howe": [datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30)],
}


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize(
    "expression",
    ["30 2 * * *", "45 1,2 * * *", "59 23 * * *", "0 0 * * *", "15 * * * *",
     "0 */2 * * *", "40 */1 * * *", "50 1 5 4 *"],
)  # fmt: skip
def test_the_next_time_is_later(zone, expression):
    """From each moment, also in the hour that is there twice."""
    schedule = Schedule("job", expression, ZoneInfo(zone))
    for change in CHANGES[zone]:
        start = change.replace(tzinfo=timezone.utc) - 2 * 60 * MINUTE
        for minutes in range(0, 4 * 60, 7):
            moment = start + minutes * MINUTE
            last, following = schedule.until(moment), schedule.after(moment)
            assert last <= moment < following
            assert schedule.after(last) > moment
            assert schedule.until(following) == following


def test_what_has_gone_by_is_not_next():
    """A scheduler that starts between the first 2:30 and the second waits a day."""
    schedule = Schedule("job", "30 2 * * *", ZoneInfo("Europe/Berlin"))
    moment = datetime(2026, 10, 25, 1, 10, tzinfo=timezone.utc)
    assert schedule.after(moment) == datetime(2026, 10, 26, 1, 30, tzinfo=timezone.utc)
    assert schedule.until(moment) == datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
