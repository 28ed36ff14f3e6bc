"""Figures as the ledger would tell them, and requests for the page."""

from __future__ import annotations

import io
from datetime import datetime, timezone
from html.parser import HTMLParser
from urllib.parse import urlencode

from wsgi_defer.jobs import Job
from wsgi_defer.ledger import (
    CallFigures,
    Failure,
    Histogram,
    Snapshot,
    WorkerFigures,
)

from ...helpers.client import get, make_environ

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
QUIET = ((0.0, 0.0),) * 60
# Whatever is the app's may look like this.
NASTY = "<b onclick='x'>\"&\x1b[31m\u202e\n"


def times(*counts):
    """A histogram with buckets up to 10 ms, 100 ms, 1 s, and above."""
    return Histogram((0.01, 0.1, 1.0), counts or (0, 0, 0, 0), 1.5)


def worker(pid=100, state="idle", **more):
    figures = WorkerFigures(
        pid, NOW - 3600, state, NOW - 2.5, "", "", 0, 12, 82_000_000, QUIET
    )
    return figures._replace(**more)


def calls(name="shop.mail", **more):
    figures = CallFigures(name, 8, 2, 1, 0, 3, 1, times(4, 4, 2, 0), times(0, 0, 8, 2))
    return figures._replace(**more)


def failure(**more):
    figures = Failure(NOW - 5, "shop.mail", "OSError", "/srv/shop.py:7", "r-1", 100)
    return figures._replace(**more)


def figures(**more):
    """A snapshot of a gunicorn with three workers."""
    busy = worker(
        101, "after response", call="shop.mail", request_id="r-2", waiting=3,
        minute=QUIET[:30] + ((0.25, 0.5),) * 30,
    )  # fmt: skip
    snapshot = Snapshot(
        NOW, NOW - 7200, True, "shop", (worker(), busy, worker(102, "request")),
        (calls(),), (failure(),), 345, 4, 1, 2, 11, 2048, 6, 1.25,
    )  # fmt: skip
    return snapshot._replace(**more)


def job(job_id="j-1", state="failed", **more):
    at = datetime.fromtimestamp(NOW, timezone.utc)
    more = {"error": "OSError: down", "finished_at": at, "enqueued_at": at, **more}
    return Job(job_id, "mail.welcome", state, 5, **more)


class FakeJobs:
    """As ``Jobs``, with what it is given; notes what is done."""

    schedules = ()

    def __init__(self, failed=(), recent=(), raises=None):
        self.lists = {"failed": list(failed), "recent": list(recent)}
        self.raises = raises or {}
        self.done = []
        self.asked = 0

    def _tell(self, method, what):
        if method in self.raises:
            raise self.raises[method]
        return what

    def counts(self, by_name):
        assert by_name
        self.asked += 1
        states = dict.fromkeys(("queued", "done", "failed"), 0)
        return self._tell("counts", {"mail.welcome": {**states, "failed": 2}})

    def failed(self, limit):
        return self._tell("failed", self.lists["failed"][:limit])

    def recent(self, limit):
        return self._tell("recent", self.lists["recent"][:limit])

    def _act(self, *what):
        self._tell(what[0], None)
        self.done.append(what)
        return what[-1]

    def cancel(self, job_id):
        return self._act("cancel", job_id)

    def retry(self, job_id):
        return self._act("retry", job_id)

    def retry_all(self):
        return self._act("retry_all", 2)


def ask(page, query="", path="/", method="GET", **environ):
    """Send a request; a ``Reply`` with its headers as a dict."""
    reply = get(
        page,
        environ=make_environ(
            QUERY_STRING=query, PATH_INFO=path, REQUEST_METHOD=method, **environ
        ),
    )
    reply.headers = dict(reply.headers)
    return reply


def post(page, form, **environ):
    """Send a form."""
    body = urlencode(form).encode()
    sent = {
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    return ask(page, method="POST", **sent)


class _Forms(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.found.append({})
        elif tag in ("input", "button") and "name" in attributes:
            self.found[-1][attributes["name"]] = attributes["value"]


def forms(reply):
    """What each form of a page would send."""
    parser = _Forms()
    parser.feed(reply.body.decode())
    return parser.found
