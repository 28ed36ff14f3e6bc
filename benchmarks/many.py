"""What is asked of an engine that holds 100,000 jobs, and what that takes.

``enqueue()`` is compared with an empty engine, ``enqueue_many()`` with single calls. In
SQLite, nine of ten jobs have ended, by SQL: to run them would take a quarter of an
hour. There, ``clear()`` forgets jobs for half a minute while this process enqueues. In
the others, all jobs wait.

The servers are those of the tests, started for this; what is not installed is left out,
by name.
"""

import contextlib
import importlib.util
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from wsgi_defer.jobs import Jobs

HOME = Path(__file__).parent.parent
MANY = 100_000
AT_ONCE = 10_000
SINGLE = 1_000  # calls of enqueue() that are timed
CLEARING = 30  # seconds
PAYLOAD = {"to": "ada@example.org", "name": "Ada Lovelace", "items": [1, 2, 3]}
# Every tenth job waits, every tenth has failed.
END = """
UPDATE workflow_status
    SET status = CASE rowid % 10 WHEN 1 THEN 'ERROR' ELSE 'SUCCESS' END,
        started_at_epoch_ms = created_at, completed_at = created_at
    WHERE rowid % 10;
INSERT INTO workflow_output (workflow_uuid, output, error)
    SELECT workflow_uuid, 'null', '{"error": "ValueError: no"}'
    FROM workflow_status WHERE rowid % 10;
"""
jobs = Jobs(os.environ.get("JOBS_URL"))  # of the command that clears


def timed(call, *args, **options):
    """How many milliseconds it takes."""
    start = time.perf_counter()
    call(*args, **options)
    return (time.perf_counter() - start) * 1e3


def singles(jobs, count):
    return [timed(jobs.enqueue, "mail", PAYLOAD) for _ in range(count)]


def row(what, value):
    print(f"  {what:44} {value}", flush=True)


def measure(url):
    jobs = Jobs(url)
    jobs.handler("mail", attempts=5)(print)
    jobs.enqueue("mail", PAYLOAD)  # opens it, and makes the tables
    before = singles(jobs, SINGLE)
    many = [("mail", PAYLOAD)] * AT_ONCE
    at_once = [timed(jobs.enqueue_many, many) for _ in range(MANY // AT_ONCE)]
    if url.startswith("sqlite"):
        file = sqlite3.connect(url.removeprefix("sqlite:///"))
        with contextlib.closing(file):
            file.executescript(END)
    after = singles(jobs, SINGLE)
    p50, then = statistics.median(before), statistics.median(after)
    row("enqueue(), p50: empty, then with 100,000",
        f"{p50:.2f} ms, {then:.2f} ms: {then / p50:.2f} times")  # fmt: skip
    single = sum(before) / SINGLE * AT_ONCE
    row("10,000 jobs: single calls, enqueue_many()",
        f"{single / 1e3:.1f} s, {statistics.median(at_once) / 1e3:.2f} s: "
        f"{statistics.median(at_once) / single:.2f} of it")  # fmt: skip
    one = jobs.enqueue("mail", PAYLOAD)
    for what, call in (
        ("status()", lambda: jobs.status(one)),
        ("counts()", jobs.counts),
        ("counts(by_name=True)", lambda: jobs.counts(by_name=True)),
        ("failed()", jobs.failed),
        ("recent()", jobs.recent),
        ('recent(state="done")', lambda: jobs.recent(state="done")),
    ):
        times = [timed(call) for _ in range(7)]
        row(what, f"{statistics.median(times):.1f} ms, at most {max(times):.1f} ms")
    if url.startswith("sqlite"):
        clear(jobs, url)
    jobs.engine.close()


def clear(jobs, url):
    """Another process clears, as the command; this one enqueues meanwhile."""
    command = [sys.executable, "-m", "wsgi_defer.jobs", "clear", "many:jobs"]
    path = os.pathsep.join([str(HOME), str(HOME / "benchmarks")])
    env = {**os.environ, "JOBS_URL": url, "PYTHONPATH": path}
    done = jobs.counts()["done"]
    end, times = time.monotonic() + CLEARING, []
    with subprocess.Popen([*command, "--days", "0"], env=env) as other:
        while other.poll() is None and time.monotonic() < end:
            times += singles(jobs, 1)
            time.sleep(0.01)
        other.terminate()
    row("enqueue() during clear(), p50, the longest",
        f"{statistics.median(times):.1f} ms, {max(times):.0f} ms, while "
        f"{done - jobs.counts()['done']} jobs were forgotten")  # fmt: skip


def main():
    # Not in the command that clears, which imports this file.
    import pytest

    from tests.engines.services import Postgres, Redis

    for title, package, server in (
        ("DBOS on SQLite", "dbos", None),
        ("RQ on Redis", "rq", Redis),
        ("Procrastinate", "procrastinate", Postgres),
        ("DBOS on PostgreSQL", "dbos", Postgres),
    ):
        print(f"\n{title}:", flush=True)
        if importlib.util.find_spec(package) is None:
            row(f"{package} is not installed", "")
            continue
        try:
            if server is None:
                with tempfile.TemporaryDirectory() as folder:
                    measure(f"sqlite:///{folder}/jobs.db")
                continue
            server.skip_unless_installed()
            with contextlib.closing(server()) as running:
                measure(f"dbos+{running.url}" if package == "dbos" else running.url)
        except (pytest.skip.Exception, ValueError) as reason:
            row(str(reason), "")


if __name__ == "__main__":
    main()
