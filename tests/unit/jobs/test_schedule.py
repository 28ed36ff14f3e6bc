"""Jobs that are due again and again: their times, their ids, and who enqueues them."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from wsgi_defer.jobs import Job, Jobs, JobsUnavailable, _scheduler
from wsgi_defer.jobs._job import is_id
from wsgi_defer.jobs._schedule import Schedule
from wsgi_defer.jobs._scheduler import LOOK_BACK, Scheduler

from ...helpers.waiting import until

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 11, 30, 8, 0, 30, tzinfo=UTC)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(schedule, start, number):
    """The next times, as UTC."""
    found = []
    for _ in range(number):
        start = schedule.after(start)
        found.append(f"{start:%d %H:%M}")
    return found


# ---------------------------------------------------------------------- the times


def test_each_day_has_one_though_the_clocks_change():
    """The night without a 2:30 has it right after the gap, and the one with two has
    the first of them."""
    schedule = Schedule("x", "30 2 * * *", BERLIN)
    assert times(schedule, at("2026-03-27T12:00"), 3) == [
        "28 01:30", "29 01:00", "30 00:30"]  # fmt: skip
    assert times(schedule, at("2026-10-23T12:00"), 3) == [
        "24 00:30", "25 00:30", "26 01:30"]  # fmt: skip


def test_each_hour_has_one_though_the_clocks_change():
    """No hour is left out, and none has two."""
    schedule = Schedule("x", "0 * * * *", BERLIN)
    for day in ("2026-03-28T22:30", "2026-10-24T22:30"):
        start = at(day)
        for hour in range(1, 8):
            due = schedule.after(start)
            assert due == at(day).replace(minute=0) + timedelta(hours=hour)
            start = due


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("x", "*/7 1-5 * * *", BERLIN),
        Schedule("x", "30 2 * * *", BERLIN),
        Schedule("x", "0 0 29 2 *"),
        Schedule("x", "0 9 * * MON", ZoneInfo("America/New_York")),
        Schedule("x", timedelta(seconds=7)),
        Schedule("x", timedelta(days=1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("day", ["2026-03-28T20:00", "2026-10-24T20:00"])
def test_the_latest_time_is_the_one_before_the_next(schedule, day):
    """Forwards and backwards, there are the same times; each includes its second."""
    due = schedule.after(at(day))
    for _ in range(60):
        following = schedule.after(due)
        assert following > due
        assert schedule.until(due) == due
        assert schedule.until(due + timedelta(microseconds=999_999)) == due
        assert schedule.until(following - timedelta(seconds=1)) == due
        assert schedule.after(following - timedelta(microseconds=1)) == following
        due = following


@pytest.mark.parametrize(
    ("every", "more", "says"),
    [
        ("* * * *", {}, "is not like"),
        ("* * * * * *", {}, "has not 5 fields"),
        ("61 * * * *", {}, "Bad minute"),
        ("0 0 31 2 *", {}, "is not like"),
        ("", {}, "is not like"),
        (timedelta(0), {}, "whole seconds"),
        (timedelta(seconds=1.5), {}, "whole seconds"),
        (timedelta(days=1), {"timezone": BERLIN}, "only a cron expression"),
        ("0 0 * * *", {"timezone": "Europe/Nowhere"}, "no time zone 'Europe/Nowhere'"),
        ("0 0 * * *", {"timezone": "../x"}, "no time zone"),
        ("0 0 * * *", {"attempts": 0}, "attempts takes"),
        ("0 0 * * *", {"payload": {1: 2}}, "not JSON"),
        ("0 0 * * *", {"name": "no name"}, "a name is like"),
    ],
)
def test_what_makes_no_sense_is_refused(every, more, says):
    """When it is written, not when it would be due."""
    with pytest.raises(ValueError, match=says):
        Jobs(None).every(every, **{"name": "x", **more})
    with pytest.raises(TypeError, match="cron expression or a timedelta"):
        Jobs(None).every(60, name="x")


def test_without_the_package_for_cron(monkeypatch):
    """The error says which, and what installs it; an interval needs none."""
    monkeypatch.delitem(sys.modules, "wsgi_defer.jobs._cron", raising=False)
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"'cronsim'.*wsgi-defer\[jobs\]"):
        Jobs(None).every("* * * * *", name="x")
    Jobs(None).every(timedelta(hours=1), name="x")


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Africa/Cairo", "2026-10-29T12:00"),
        ("America/Havana", "2026-10-31T12:00"),
        ("Asia/Beirut", "2026-10-24T12:00"),
        ("Europe/Berlin", "2026-10-24T12:00"),
    ],
)
@pytest.mark.parametrize(
    "every",
    ["59 23 * * *", "30 23 * * *", "30 0 * * *", "*/20 23,0 * * *", "5 * * * *"],
)
def test_the_latest_time_where_the_clocks_go_back(zone, day, every):
    """Also at midnight, where the hour that is there twice is of the day before."""
    schedule = Schedule("x", every, ZoneInfo(zone))
    due = schedule.after(at(day))
    for _ in range(30):
        following = schedule.after(due)
        assert schedule.until(due) == due
        assert schedule.until(following - timedelta(seconds=1)) == due
        assert not schedule.is_stale(schedule.id(due))
        due = following


# ------------------------------------------------------------------------ the ids


@pytest.mark.parametrize("name", ["reports.nightly", "_x", "a" * 100, "a" * 99 + "b"])
def test_ids_are_ids(name):
    """Whatever the name; and no two names or times have the same."""
    schedule = Schedule(name, timedelta(seconds=1))
    assert is_id(schedule.id(START))
    assert schedule.id(START) != schedule.id(START + timedelta(seconds=1))
    assert schedule.id(START) == schedule.id(START.astimezone(BERLIN))
    assert schedule.id(START) != Schedule("a" * 98, timedelta(seconds=1)).id(START)


def test_a_job_of_an_old_schedule_does_not_run(ran):
    """It was enqueued ahead, before the schedule changed. Others run."""
    jobs = Jobs(None)
    jobs.every(timedelta(minutes=5), name="x", payload=3)(ran.append)
    old = Schedule("x", timedelta(minutes=7)).id(at("2026-11-30T08:03"))
    [schedule] = jobs.schedules
    for job_id in (old, schedule.id(at("2026-11-30T08:05")), "every-x-other", "mine"):
        jobs.enqueue("x", 3, job_id=job_id)
    assert ran == [3, 3, 3]


# ---------------------------------------------------------------- who enqueues them


class Stored:
    """Stands for an engine: it keeps what it is given by id, and when it started."""

    def __init__(self):
        self.due = {}
        self.started = {}
        self.failed = set()
        self.asked = 0
        self.down = False

    def enqueue(self, name, payload, *, job_id, delay, hold):
        if self.down:
            raise JobsUnavailable("it", "storing")
        assert hold is False
        self.due.setdefault(job_id, (name, payload, delay))

    def status(self, job_id):
        if self.down:
            raise JobsUnavailable("it", "reading")
        self.asked += 1
        if job_id not in self.due:
            return None
        started = self.started.get(job_id)
        state = "done" if started else "scheduled"
        state = "failed" if job_id in self.failed else state
        return Job(job_id, "x", state, started_at=started)


MINUTELY = Schedule("x", timedelta(minutes=1), payload={"a": 1})


def minute(number):
    """The id of that minute after the start."""
    return MINUTELY.id(START.replace(second=0) + timedelta(minutes=number))


def look(scheduler, minutes):
    """Let it look that long after the start."""
    return scheduler.look(MINUTELY, START + timedelta(minutes=minutes))


def test_the_next_is_enqueued_ahead():
    """With a delay until it is due; nothing for the time before its first start."""
    stored = Stored()
    scheduler = Scheduler(stored, [MINUTELY])
    assert look(scheduler, 0) == START.replace(minute=1, second=0)
    assert stored.due == {minute(1): ("x", {"a": 1}, 30.0)}
    look(scheduler, 0.25)
    assert [*stored.due] == [minute(1)]
    look(scheduler, 0.5)
    assert [*stored.due] == [minute(1), minute(2)]


def test_another_scheduler_changes_nothing():
    """However many there are, and though they start again."""
    stored = Stored()
    for minutes in (0, 0, 0.25, 0.75):
        for scheduler in (Scheduler(stored, [MINUTELY]) for _ in range(3)):
            look(scheduler, minutes)
    assert [*stored.due] == [minute(1), minute(2)]


def test_what_was_missed_while_none_ran_is_done_once():
    """The one that was enqueued ahead stands for it, whether it waits still, or has
    been run already when a scheduler starts again."""
    for started in (None, START + timedelta(minutes=10)):
        stored = Stored()
        look(Scheduler(stored, [MINUTELY]), 0)
        if started:
            stored.started[minute(1)] = started
        look(Scheduler(stored, [MINUTELY]), 10.25)
        assert [*stored.due] == [minute(1), minute(11)]


def test_a_scheduler_that_died_before_it_enqueued_the_next():
    """The one ahead has run in time. So of those that were missed, one is done."""
    stored = Stored()
    look(Scheduler(stored, [MINUTELY]), 0)
    stored.started[minute(1)] = START + timedelta(minutes=0.5)
    look(Scheduler(stored, [MINUTELY]), 10.25)
    assert [*stored.due] == [minute(1), minute(10), minute(11)]
    look(Scheduler(stored, [MINUTELY]), 10.3)
    assert [*stored.due] == [minute(1), minute(10), minute(11)]


def test_a_schedule_that_nobody_has_run_for_long_counts_as_new():
    """It does not look back for ever."""
    stored = Stored()
    stored.enqueue("x", 1, job_id=minute(0), delay=0, hold=False)
    stored.started[minute(0)] = START
    look(Scheduler(stored, [MINUTELY]), LOOK_BACK + 5)
    assert [*stored.due] == [minute(0), minute(LOOK_BACK + 6)]


def test_a_process_that_was_stopped_for_a_while():
    """Of the times that passed meanwhile, one is done. The engine may be away, too."""
    stored = Stored()
    scheduler = Scheduler(stored, [MINUTELY])
    look(scheduler, 0)
    stored.started[minute(1)] = START + timedelta(minutes=0.5)
    stored.down = True
    with pytest.raises(JobsUnavailable):
        look(scheduler, 3)
    stored.down = False
    look(scheduler, 5)
    assert [*stored.due] == [minute(1), minute(5), minute(6)]


def test_a_clock_that_jumps_ahead():
    """The job that waits stands for the times that passed meanwhile."""
    stored = Stored()
    scheduler = Scheduler(stored, [MINUTELY])
    look(scheduler, 0)
    look(scheduler, 60)
    assert [*stored.due] == [minute(1), minute(61)]


def test_a_scheduler_that_is_late_leaves_out_no_time():
    """As on a busy machine. The job that waits does not stand for them. But it does if
    the machine slept for minutes."""
    schedule = Schedule("x", timedelta(seconds=10))
    stored = Stored()
    scheduler = Scheduler(stored, [schedule])

    def look(seconds):
        before = {*stored.due}
        scheduler.look(schedule, START + timedelta(seconds=seconds))
        return [job_id[-7:] for job_id in stored.due if job_id not in before]

    assert look(1) == ["080040Z"]
    assert look(35) == ["080050Z", "080100Z", "080110Z"]
    assert look(90) == [
        "080120Z",
        "080130Z",
        "080140Z",
        "080150Z",
        "080200Z",
        "080210Z",
    ]
    assert look(300) == ["080540Z"]
    stored.started[schedule.id(START + timedelta(seconds=310))] = START
    assert look(500) == ["080850Z", "080900Z"]


def test_an_old_failure_is_no_proof_that_one_was_missed():
    """Engines keep failed jobs for longer than those that were done."""
    for last_is_known in (True, False):
        stored = Stored()
        for number in (1, 2, 3):
            stored.enqueue("x", 1, job_id=minute(number), delay=0, hold=False)
        for number in (1, 2):
            stored.started[minute(number)] = START + timedelta(minutes=number - 0.5)
        stored.failed.add(minute(1))
        del stored.due[minute(2)]  # it was done, and is forgotten
        if not last_is_known:
            del stored.due[minute(3)]
        look(Scheduler(stored, [MINUTELY]), 1.75)
        assert [*stored.due] == [minute(1), minute(3)]


def test_a_job_that_ran_is_not_missed_though_it_is_forgotten():
    """The next one is enqueued after it."""
    stored = Stored()
    for number in (1, 3):
        stored.enqueue("x", 1, job_id=minute(number), delay=0, hold=False)
    stored.started[minute(1)] = START + timedelta(minutes=0.5)
    look(Scheduler(stored, [MINUTELY]), 1.75)
    assert [*stored.due] == [minute(1), minute(3)]


def test_a_clock_that_is_set_back():
    """Each time is still enqueued once."""
    stored = Stored()
    scheduler = Scheduler(stored, [MINUTELY])
    for minutes in (0, 1, 2, 0, 1, 2, 3):
        look(scheduler, minutes)
    assert sorted(stored.due) == [minute(n) for n in range(1, 5)]


def test_what_is_due_in_years_is_enqueued_later():
    """Engines take no longer delays."""
    stored = Stored()
    leap = Schedule("x", "0 0 29 2 *")
    scheduler = Scheduler(stored, [leap])
    scheduler.look(leap, START)
    assert stored.due == {}
    asked = stored.asked
    scheduler.look(leap, START + timedelta(seconds=5))
    assert stored.asked == asked
    scheduler.look(leap, at("2028-02-01T00:00"))
    assert [*stored.due] == ["every-x-20280229T000000Z"]


def test_the_thread_looks_in_time(monkeypatch):
    """And again after a failure; it stops when it is told to."""
    stored = Stored()
    failures = Counter()
    errors = JobsUnavailable("it", "storing"), ZeroDivisionError()

    def enqueue(name, payload, **more):
        if failures["enqueue"] < 2:
            failures["enqueue"] += 1
            raise errors[failures["enqueue"] - 1]
        Stored.enqueue(stored, name, payload, **more)

    stored.enqueue = enqueue
    monkeypatch.setattr(_scheduler, "AGAIN", 0.01)
    scheduler = Scheduler(stored, [Schedule("x", timedelta(seconds=1))])
    scheduler.start()
    until(lambda: len(stored.due) >= 3)
    scheduler.stop()
    assert not scheduler._thread.is_alive()
