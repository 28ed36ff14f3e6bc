"""A job's progress: what is stored, and how often."""

from __future__ import annotations

import logging
import os
import sys
import tempfile

import pytest

from wsgi_defer.jobs import Job, Jobs, JobsUnavailable, Progress, _progress
from wsgi_defer.jobs._attempt import Attempt, AttemptFailed
from wsgi_defer.jobs._command import speech
from wsgi_defer.jobs._progress import from_text
from wsgi_defer.jobs._worklog import new_count, summary


@pytest.fixture
def jobs():
    return Jobs(None)


@pytest.fixture
def now(monkeypatch):
    """A clock that a test moves."""
    times = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: times[0])
    return times


def test_at_most_one_a_second_is_stored(jobs, now, monkeypatch):
    """The first, and then the first after a second each."""
    stored = []
    monkeypatch.setattr(
        jobs.engine, "progress", lambda *args: stored.append((now[0], *args))
    )

    @jobs.handler("tells", pass_job=True)
    def tells(payload, job):
        for number in range(25):
            job.progress(number, 25)
            now[0] += 0.125

    jobs.run("tells", "1", "abc", 2, last=True)
    assert stored == [
        (100.0, "abc", 2, Progress(0, 25)), (101.0, "abc", 2, Progress(8, 25)),
        (102.0, "abc", 2, Progress(16, 25)), (103.0, "abc", 2, Progress(24, 25)),
    ]  # fmt: skip


def test_progress_in_memory(jobs):
    """It is there while the job runs, and gone after it."""
    seen = []

    @jobs.handler("tells", pass_job=True)
    def tells(payload, job):
        job.progress(1, 4, "x" * 300)
        seen.append(jobs.status(job.id))

    job_id = jobs.enqueue("tells")
    assert seen[0].progress == Progress(1, 4, "x" * 200)
    assert str(seen[0].progress) == f"1 of 4, {'x' * 200}"
    assert jobs.status(job_id).progress == Progress()
    assert str(Progress()) == "-"
    assert jobs.status(job_id).to_dict()["progress"] is None
    with jobs.eager():  # which knows the job only when it is done
        jobs.enqueue("tells")


@pytest.mark.parametrize("wrong", [("1", 2), (1, None), (float("nan"), 1), (1j, 1)])
def test_what_are_no_numbers(jobs, wrong):
    """They are refused in the handler."""
    jobs.handler("tells", pass_job=True)(lambda payload, job: job.progress(*wrong))
    with pytest.raises(ValueError, match="progress takes two numbers"):
        jobs.run("tells", "1", "abc", 1, last=True)


def test_only_the_handler_tells():
    """A job that was asked for is no handle on the one that runs."""
    with pytest.raises(RuntimeError, match="only the handler"):
        Job("a", "x", "running").progress(1, 2)


def test_an_engine_that_is_down_does_not_end_the_job(jobs, monkeypatch, caplog):
    """It is logged, once a minute."""

    def down(*args):
        raise JobsUnavailable("it", "storing")

    monkeypatch.setattr(jobs.engine, "progress", down)
    monkeypatch.setattr(_progress, "INTERVAL", 0)
    monkeypatch.setattr(_progress._notices, "_last", {})

    @jobs.handler("tells", pass_job=True)
    def tells(payload, job):
        job.progress(1, 2)
        job.progress(2, 2)
        return "done"

    assert jobs.run("tells", "1", "abc", 1, last=True) == "done"
    assert len(caplog.messages) == 1
    assert "progress of jobs is not stored" in caplog.text


@pytest.mark.parametrize("text", [None, b"", "[1]", '["a"]', "{", b"\xff", "[2,1,1,1]"])
def test_what_is_not_of_this_attempt_is_nothing(text):
    """Also what somebody else has written."""
    assert from_text(text, 1) == Progress()


# ------------------------------------------------------------- what a worker says


def run(jobs, name, waits=(), due=None):
    try:
        Attempt("abc", name, "{}", waits, due=due).run(jobs)
    except AttemptFailed:
        pass


def test_a_line_for_each_attempt_and_its_fields(jobs, caplog):
    """The fields are for those who log as JSON."""
    caplog.set_level(logging.INFO, "wsgi_defer")
    count = new_count()
    jobs.worklog.count_into(count)
    jobs.handler("works")(lambda payload: None)
    jobs.handler("fails")(lambda payload: 1 / 0)
    jobs.handler("ends")(lambda payload: sys.exit(3))
    run(jobs, "works", due=1.0)
    run(jobs, "fails", [60])
    run(jobs, "fails")
    with pytest.raises(SystemExit):
        Attempt("abc", "ends", "{}", []).run(jobs, but=(SystemExit,))
    lines = [r for r in caplog.records if hasattr(r, "wsgi_defer_outcome")]
    names = ["job", "job_id", "attempt", "outcome", "again_in"]
    fields = [
        tuple(getattr(line, f"wsgi_defer_{name}", None) for name in names)
        for line in lines
    ]
    assert fields == [
        ("works", "abc", 1, "done", None),
        ("fails", "abc", 1, "again", 60),
        ("fails", "abc", 1, "failed", None),
    ]
    assert lines[0].wsgi_defer_waited > 1e9
    assert not hasattr(lines[1], "wsgi_defer_waited")
    assert all(0 <= r.wsgi_defer_ran < 60 for r in lines)
    assert lines[1].getMessage().startswith("fails abc attempt 1: again in 60 s (ra")
    assert summary(count) == (
        "1 done, 1 failed, 1 to be tried again, 1 given back unfinished"
    )


def test_a_count_that_cannot_be_written_does_not_matter(jobs, tmp_path):
    """The job runs all the same, and nothing is written to another file."""
    count = new_count()
    jobs.worklog.count_into(count)
    jobs.handler("works")(lambda payload: None)
    os.close(count)
    jobs.worklog.count_into(count)  # whoever started the process has closed it
    run(jobs, "works")
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    os.dup2(other, count)
    run(jobs, "works")
    os.close(other)
    os.close(count)
    assert not (tmp_path / "other").read_bytes()


def test_no_place_for_the_count(monkeypatch):
    """As in a container that can only be read."""

    def refuse():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert new_count() is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ada:s3cret@host:6379/2", "redis://host:6379/2"),
        ("postgresql://u:p@a,b:2/db?password=x", "postgresql://a,b:2/db"),
        ("amqp://u:p%40@host//", "amqp://host//"),
        ("redis://host", "redis://host"),
        ("dbos+postgresql://user:pa/ss@host/db", "dbos+postgresql://host/db"),
        ("dbos+postgresql://user:p@a/s:s@host/db", "dbos+postgresql://host/db"),
        ("dbos+postgresql://user:pa?ss@host/db", "dbos+postgresql://..."),
        ("dbos+postgresql://user:pa#ss@host/db", "dbos+postgresql://..."),
        ("redis://host/2?password=p@ss", "redis://..."),
        ("sqlite:////srv/a@b/jobs.db?timeout=1", "sqlite:////srv/a@b/jobs.db"),
    ],
)
def test_where_the_jobs_are_without_a_password(url, shown):
    """Nor the user, nor options, which may hold one, too."""
    assert speech.location(url) == shown


def test_colours_only_in_a_terminal(monkeypatch):
    """And not if NO_COLOR asks for none."""
    record = logging.LogRecord("wsgi_defer", logging.INFO, "", 0, "told", (), None)
    assert speech.Coloured("%(message)s").format(record) == "told"
    record.wsgi_defer_outcome = "failed"
    assert speech.Coloured("%(message)s").format(record) == "\x1b[31mtold\x1b[0m"
    made = []
    monkeypatch.setattr(logging, "basicConfig", lambda handlers: made.extend(handlers))
    monkeypatch.setattr(speech, "logger", logging.Logger("other"))
    for terminal, no_color in ((True, ""), (True, "1"), (False, "")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda t=terminal: t, raising=False)
        monkeypatch.setenv("NO_COLOR", no_color)
        speech.set_up(quiet=False)
    assert [isinstance(each.formatter, speech.Coloured) for each in made] == [
        True, False, False]  # fmt: skip
    assert speech.logger.level == logging.INFO
    speech.set_up(quiet=True)
    assert speech.logger.level == logging.WARNING
