"""The engines that are tested, and a place to work in for each.

A ``Place`` is its own queue on a server that all tests of a session share, its workers,
and the file that they write to.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from wsgi_defer.jobs import Jobs, JobsUnavailable

from ..helpers.waiting import OF_PROCESSES, until, whole_lines
from .app import with_handlers
from .services import Postgres, Rabbit, Redis

HOME = Path(__file__).parent.parent.parent
PATIENCE = OF_PROCESSES
NUMBERS = count(1)


@dataclass(frozen=True)
class Kind:
    """An engine: its package, its server, and what it cannot do."""

    name: str
    package: str
    server: type | None
    cannot: frozenset = frozenset()
    results: type | None = None  # a server for Celery's result backend

    def __str__(self):
        return self.name

    def can(self, *what):
        """Whether it can do all of that."""
        return self.cannot.isdisjoint(what)


LISTS = {"failed", "recent", "retry", "once", "clear", "threads"}
KINDS = {
    kind.name: kind
    for kind in (
        Kind("sqlite", "dbos", None),
        Kind("dbos+postgresql", "dbos", Postgres),
        Kind("rq", "rq", Redis, frozenset({"clear", "threads"})),
        Kind("procrastinate", "procrastinate", Postgres),
        Kind("celery", "celery", Rabbit, frozenset({"status", *LISTS})),
        Kind("celery+results", "celery", Rabbit, frozenset(LISTS), Redis),
    )
    if importlib.util.find_spec(f"wsgi_defer.jobs.engines.{kind.package}")
}


def kinds(*what):
    """Run the test once with each engine that can do that."""
    some = [kind for kind in KINDS.values() if kind.can(*what)]
    return pytest.mark.parametrize("kind", some, ids=str)


class Servers:
    """The servers of a session, started when a test first asks for them."""

    def __init__(self):
        self.running = {}
        self.lock = threading.Lock()

    def get(self, server):
        """The server of that class."""
        server.skip_unless_installed()
        with self.lock:
            if server not in self.running:
                self.running[server] = server()
            return self.running[server]

    def close(self):
        """Stop all of them."""
        while self.running:
            self.running.popitem()[1].close()


class Own:
    """A server for one test only, instead of ``Servers``."""

    def __init__(self, server):
        server.skip_unless_installed()
        self.running = server()

    def get(self, _):
        """That server, whatever the class."""
        return self.running


@dataclass
class Place:
    """A queue of its own, with its workers."""

    kind: Kind
    servers: Servers
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="jobs-")))

    def __post_init__(self):
        pytest.importorskip(self.kind.package)
        self.number = next(NUMBERS)
        self.queue = f"place{os.getpid()}_{self.number}"
        self.url = self._url()
        results = self.kind.results
        self.results = results and self.servers.get(results).url
        try:
            self.jobs = self.client(self.queue)
        except ValueError as error:  # DBOS with an old SQLite and a new Python
            pytest.skip(str(error))
        self.workers = None

    def _url(self):
        if self.kind.server is None:
            return f"sqlite:///{self.root}/jobs.db"
        server = self.servers.get(self.kind.server)
        if self.kind.server is not Postgres:
            return server.url
        url = server.database(self.queue)
        return url if self.kind.name == "procrastinate" else f"dbos+{url}"

    def client(self, queue):
        """Another client of the same server."""
        return with_handlers(Jobs(self.url, queue=queue, results=self.results))

    def work(self, processes=2, threads=1):
        """Start its workers."""
        self.workers = Workers(self, processes, threads=threads)
        return self.workers

    @property
    def notes(self):
        """The lines that its handlers have written, each as a list of words."""
        path = self.root / "notes"
        return [line.split() for line in whole_lines(path.read_text())] if (
            path.exists()) else []  # fmt: skip

    def enqueue(self, name="echo", payload=None):
        """Enqueue a job. A server that has just started may not be ready."""

        def enqueued():
            try:
                return self.jobs.enqueue(name, payload)
            except JobsUnavailable:
                return None

        return self.until(enqueued, "a server that is ready")

    def times(self, event, job_id):
        """When that event was noted of that job, in seconds."""
        return [float(words[-1]) for words in self.notes
                if words[:2] == [event, job_id]]  # fmt: skip

    def wait(self, job_id, *states, patience=PATIENCE):
        """The job, once it is in one of those states; "done" or "failed" by default."""
        states = states or ("done", "failed")
        return self.until(
            lambda: (job := self.jobs.status(job_id)) and job.state in states and job,
            f"{job_id} {'|'.join(states)}", patience,
        )  # fmt: skip

    def until(self, true, what, patience=PATIENCE):
        """Ask until the answer is true; return it. ``what`` may be a function, too."""
        return until(
            true, lambda: f"{what() if callable(what) else what}\n{self}", patience
        )

    def __str__(self):
        output = self.root / "output"
        text = output.read_text(errors="replace")[-5000:] if output.exists() else ""
        return f"{self.kind} {self.url}\n{text}"

    def close(self):
        """Stop its workers, and forget it."""
        if self.workers:
            self.workers.kill()
        for engine in self.jobs._engines.values():
            engine.close()
        shutil.rmtree(self.root, ignore_errors=True)


class Workers:
    """A supervisor and its workers, in a process group of their own."""

    def __init__(
        self, place, processes, target="tests.engines.app:jobs", *more, threads=1
    ):
        self.env = {**os.environ, "JOBS_URL": place.url, "JOBS_QUEUE": place.queue,
                    "JOBS_NOTES": str(place.root / "notes"), "PYTHONUNBUFFERED": "1",
                    "PYTHONPATH": f"{HOME}:{place.root}"}  # fmt: skip
        if place.results:
            self.env["JOBS_RESULTS"] = place.results
        command = [sys.executable, "-m", "wsgi_defer.jobs", "worker", target,
                   "--processes", str(processes), "--threads", str(threads),
                   *more]  # fmt: skip
        # A test that needs them waits for what they do.
        with (place.root / "output").open("a") as output:
            self.supervisor = subprocess.Popen(
                command, cwd=HOME, env=self.env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def family(self):
        """The ids of all its processes: those whose environment names its notes."""
        mark = f"JOBS_NOTES={self.env['JOBS_NOTES']}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                # A zombie's is empty.
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
        return found

    def kill(self):
        """Kill all of them at once."""
        while members := self.family():
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.supervisor.wait(PATIENCE)
        self.supervisor.wait(PATIENCE)

    def terminate(self, everyone=False):
        """Send SIGTERM to the supervisor, or to all, as a service manager does."""
        for pid in self.family() if everyone else [self.supervisor.pid]:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
