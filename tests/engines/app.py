"""What the workers of these tests run: handlers that write a line for each step.

``JOBS_URL`` says which engine, ``JOBS_NOTES`` where the lines go. Importing it opens
nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from wsgi_defer import defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.observers import JobObserver


def note(*words):
    """Write one line. Short lines, appended by one call each, do not mix."""
    line = " ".join(map(str, [*words, os.getpid(), f"{time.time():.3f}"])) + "\n"
    file = os.open(os.environ["JOBS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Carries(JobObserver):
    """Sends a word along with jobs, and notes each attempt that has one."""

    def __init__(self, word=None):
        self.word = word
        self.seen = None

    def enqueuing(self, name, carrier):
        if self.word:
            carrier["word"] = self.word

    @contextmanager
    def attempting(self, attempt, carrier):
        try:
            yield
        finally:
            if word := carrier.get("word"):
                self.seen = word
                note("carried", attempt.job_id, word, attempt.number)

    def flush(self):
        if self.seen:
            note("flushed", self.seen)


def with_handlers(jobs):
    """Give it the handlers of these tests."""

    @jobs.handler("echo", pass_job=True)
    def echo(payload, job):
        """Give the payload back."""
        note("echo", job.id, job.attempts)
        return payload

    @jobs.handler("nap", pass_job=True)
    def nap(payload, job):
        """Start, sleep for that many seconds, and end."""
        note("start", job.id)
        time.sleep(payload)
        note("end", job.id)
        return payload

    @jobs.handler("held", pass_job=True)
    def held(payload, job):
        """Start, wait until there is a file, and end."""
        note("start", job.id)
        while not Path(payload).exists():
            time.sleep(0.02)
        note("end", job.id)

    @jobs.handler("tells", attempts=2, backoff=0, pass_job=True)
    def tells(payload, job):
        """Tell its progress in the first attempt, wait for a file, and fail; then wait
        for another."""
        if job.attempts == 1:
            job.progress(3, 12, "käse \x00")
        note("start", job.id, job.attempts)
        while not Path(f"{payload}{job.attempts}").exists():
            time.sleep(0.02)
        if job.attempts == 1:
            raise ValueError("attempt 1")

    @jobs.handler("fails", pass_job=True)
    def fails(payload, job):
        """Fail, without another attempt."""
        note("fails", job.id)
        raise ValueError(f"no {payload}")

    @jobs.handler("flaky", attempts=5, backoff=1, max_backoff=2, pass_job=True)
    def flaky(payload, job):
        """Fail as often as the payload says; the waits are 1, 2, 2 and 2 seconds."""
        note("flaky", job.id, job.attempts)
        if job.attempts <= payload:
            raise ValueError(f"attempt {job.attempts}")
        return job.attempts

    @jobs.handler("rests", attempts=2, backoff=300, pass_job=True)
    def rests(payload, job):
        """Fail at the first attempt; the second comes much later."""
        note("rests", job.id)
        raise ValueError("attempt 1")

    @jobs.handler("until", pass_job=True)
    def until(payload, job):
        """Fail until there is a file."""
        note("until", job.id)
        if not Path(payload).exists():
            raise FileNotFoundError(payload)

    @jobs.handler("deadly", pass_job=True)
    def deadly(payload, job):
        """Kill the process that runs it, as often as the payload says."""
        note("deadly", job.id)
        lines = Path(os.environ["JOBS_NOTES"]).read_text().splitlines()
        if sum(line.startswith(f"deadly {job.id} ") for line in lines) <= payload:
            os.kill(os.getpid(), signal.SIGKILL)

    @jobs.handler("spins", time_limit=0.5, pass_job=True)
    def spins(payload, job):
        """Never end, in Python."""
        note("spins", job.id)
        while True:
            time.sleep(0.01)

    @jobs.handler("stuck", attempts=2, backoff=0, time_limit=0.5, pass_job=True)
    def stuck(payload, job):
        """Never end, where nothing can be raised in it."""
        note("stuck", job.id, job.attempts)
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                note("caught", job.id)

    @jobs.handler("odd")
    def odd(payload):
        """Return what is not JSON."""
        return {1, 2}

    @jobs.handler("hasty", attempts=4, backoff=0.2, max_backoff=0.2)
    def hasty(payload):
        """Fail each time, after short waits."""
        raise ValueError(f"no {payload}")

    @jobs.handler("strange", pass_job=True)
    def strange(payload, job):
        """Fail with a text that is no UTF-8."""
        note("strange", job.id)
        raise ValueError("\ud83d \x00 ä")

    @jobs.handler("defers", attempts=2, backoff=0, pass_job=True)
    def defers(payload, job):
        """Fail at the first attempt; defer calls that tell of their attempt."""
        defer(note, "on_failure", job.id, job.attempts).on_failure()
        defer(note, "call", job.id, job.attempts)
        defer(slow, job.id).time_limit(0.2)
        if job.attempts == 1:
            raise ValueError("attempt 1")
        note("handler", job.id)
        return payload

    def slow(job_id):
        """Run until the limit, where it can end a call."""
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 1:
                time.sleep(0.02)
            note("uncut", job_id)
        finally:
            note("slow", job_id)

    @jobs.handler("prints", pass_job=True)
    def prints(payload, job):
        """Print to a disk that is full."""
        note("prints", job.id)
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115
        print("hello")
        return payload

    return jobs


jobs = with_handlers(
    Jobs(
        os.environ.get("JOBS_URL"),
        queue=os.environ.get("JOBS_QUEUE", "wsgi_defer"),
        results=os.environ.get("JOBS_RESULTS"),
        observers=[Carries()],
    )
)
