"""An app for the tests of the command, with engines that are none."""

from __future__ import annotations

APP = """
import os, signal, sys, time
from datetime import datetime, timezone
from pathlib import Path
from wsgi_defer.jobs import *

HERE = Path(__file__).parent

class Fake:
    title = "Fake"
    own_processes = False
    holds = True
    known = {}

    def work(self, slot, processes, threads):
        stops = []  # no Event: set() waits for ever for the wait() that it interrupts
        signal.signal(signal.SIGTERM, lambda *args: stops.append(args))
        (HERE / f"up.{slot}.{os.getpid()}").touch()
        while not stops:
            time.sleep(0.02)
            if (HERE / f"die.{slot}").exists():
                os._exit(3)
        (HERE / f"term.{slot}.{os.getpid()}").touch()
        time.sleep(float((HERE / "finish").read_text()))
        (HERE / f"end.{slot}.{os.getpid()}").touch()

    def where(self):
        return None

    def close(self):
        pass

    def status(self, job_id):
        return self.known.get(job_id)

    def recent(self, limit, name=None, state=None):
        found = [job for job in self.known.values()
                 if name in (None, job.name) and state in (None, job.state)]
        return found[:limit]

    def counts(self, by_name):
        return [(job.name if by_name else "", job.state, 1) for job in self.recent(99)]

    def cancel(self, job_id):
        if job_id not in self.known:
            raise UnknownJobError(job_id)
        if self.known[job_id].state not in ("queued", "cancelled"):
            raise JobNotWaitingError(job_id, self.known[job_id].state)

    def failed(self, limit, name=None):
        return self.recent(limit, name, "failed")

    def retry(self, job_id):
        if job_id not in self.known:
            raise UnknownJobError(job_id)
        if self.known[job_id].state != "failed":
            raise JobNotFailedError(job_id, self.known[job_id].state)

    def clear(self, before):
        return round((time.time() - before) / 3600)  # as many as hours

class Own(Fake):
    own_processes = True
    def work(self, slot, processes, threads):
        (HERE / f"processes.{processes}").touch()
        super().work(slot, processes, threads)

class Down(Fake):
    def recent(self, limit, name=None, state=None):
        try:
            raise OSError("connection refused\\nmore")
        except OSError as error:
            raise JobsUnavailable("Fake", "listing the jobs") from error

class Hopeless(Fake):
    def work(self, slot, processes, threads):
        raise NotSupported("Hopeless", "have workers")

AT = datetime(2026, 11, 22, 13, 30, tzinfo=timezone.utc)
Fake.known = {job.id: job for job in [
    Job("a1", "mail.welcome", "done", 1, None, AT, AT, AT, AT, {"sent": True}),
    Job("longer-id", "x", "failed", 5, "OSError: \\x1b[31m two\\nlines " + "x" * 200,
        AT, finished_at=AT),
]}

def made(engine):
    jobs = Jobs(None)
    jobs._instead = engine()
    jobs.handler("mail.welcome")(print)
    return jobs

jobs, own, down, hopeless = map(made, [Fake, Own, Down, Hopeless])
nothing = None
timed = Jobs(None)
timed.every("0 2 * * *", name="reports.nightly", timezone="Europe/Berlin")(print)
plain = Jobs(None)
plain.handler("mail.welcome")(print)
bare = Jobs(None)

class App:
    def __init__(self, *args, **words):
        self.extensions = {"wsgi_defer_jobs": jobs} if not args else {}

app = App()

def empty_app(name, *, debug=False):
    return bare

def create_app(*args, **words):
    if args == ("broken",):
        raise OSError("no configuration")
    bare.handler("mail.welcome")(print)
    return App(*args, **words)
"""
