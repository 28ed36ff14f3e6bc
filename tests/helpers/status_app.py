"""An app with a status page, and a gunicorn that serves it.

Its calls wait until a test opens their gate, which is a file; its jobs are in a file,
too, so that all workers have the same ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.jobs import Job, JobNotFailedError, Jobs
from wsgi_defer.status import StatusPage, loopback_only

from .waiting import OF_PROCESSES

ROOT = Path(os.environ.get("WIRE_ROOT", "/nowhere"))
WORKERS = 3
CONFIGURATION = f"""
from wsgi_defer.gunicorn import install
proc_name = "shop"
worker_class = "wsgi_defer.gunicorn.SyncWorker"
workers = {WORKERS}
timeout = 240
graceful_timeout = 1
install(globals())
"""


class FileEngine:
    """The jobs of a file: their states by their ids."""

    path = ROOT / "jobs.json"

    def all(self):
        states = json.loads(self.path.read_text()) if self.path.exists() else {}
        return [
            Job(job_id, "mail.welcome", state, 5, "OSError: the server is down")
            for job_id, state in states.items()
        ]

    def counts(self, by_name):
        return [(job.name, job.state, 1) for job in self.all()]

    def recent(self, limit, name=None, state=None):
        return [job for job in self.all() if state in (None, job.state)]

    def failed(self, limit, name=None):
        return self.recent(limit, name, "failed")

    def retry(self, job_id):
        states = {job.id: job.state for job in self.all()}
        if states[job_id] != "failed":
            raise JobNotFailedError(job_id, states[job_id])
        self.path.write_text(json.dumps({**states, job_id: "queued"}))


jobs = Jobs(None)
jobs._instead = FileEngine()
pages = {
    "/status": StatusPage(allow=loopback_only, jobs=jobs, actions=True),
    "/private": StatusPage(allow=lambda environ: False),
}


def wait(gate):
    """The call: it runs until its gate is there."""
    deadline = time.monotonic() + OF_PROCESSES
    while not (ROOT / gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def fail():
    raise OSError("<script>alert(1)</script>")


def view(environ, start_response):
    """``/wait`` defers a call, ``/hang`` waits itself; which gate is in the query."""
    path = environ["PATH_INFO"]
    for mounted, page in pages.items():
        if path.startswith(mounted):
            environ["SCRIPT_NAME"] += mounted
            environ["PATH_INFO"] = path.removeprefix(mounted)
            return page(environ, start_response)
    if path == "/wait":
        defer(wait, environ["QUERY_STRING"])
    elif path == "/fail":
        defer(fail)
    elif path == "/hang":
        wait(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"hello": "world"}']


def named(environ, start_response):
    """Tell which worker it was."""

    def start(status, headers, *error):
        headers = [*headers, ("X-Worker", str(os.getpid()))]
        return start_response(status, headers, *error)

    return view(environ, start)


app = DeferMiddleware(named)


@contextmanager
def serving():
    """A gunicorn with this app, on a TCP port and on a unix socket: its ``Server``."""
    from ..wire.servers import Server

    server = Server()
    try:
        (server.root / "conf.py").write_text(CONFIGURATION)
        found = server.run(
            [sys.executable, "-m", "gunicorn", "--no-control-socket",
             "--config", str(server.root / "conf.py"),
             "--bind", "127.0.0.1:0", "--bind", f"unix:{server.root}/socket",
             "tests.helpers.status_app:app"],
            r"Listening at: (\S+)\s",
        )  # fmt: skip
        server.listens_at(found.group(1).split(",")[0])
        yield server
    finally:
        server.stop()
