"""Error trackers see whose failure it is: Sentry, with its transport replaced."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from ..helpers.waiting import whole_lines
from .gunicorns import configuration, running

sentry_sdk = pytest.importorskip("sentry_sdk")

PLACE = str(Path(sentry_sdk.__file__).parents[1])
APP = """
import json, os, time
import flask, sentry_sdk
from pathlib import Path
from sentry_sdk.transport import Transport
from tests.life.app import note
from wsgi_defer import defer
from wsgi_defer.flask import Defer

EVENTS = os.open(Path(os.environ["LIFE_ROOT"]) / "events",
                 os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class ToFile(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            os.write(EVENTS, json.dumps({
                "message": event["logentry"]["message"],
                "error": event["exception"]["values"][-1]["value"]
                         if "exception" in event else None,
                "user": event.get("user", {}).get("id"),
                "url": event.get("request", {}).get("url"),
            }).encode() + b"\\n")

sentry_sdk.init("http://a@127.0.0.1:1/1", transport=ToFile)
app = flask.Flask(__name__)
Defer(app, slow_after=0.2)

def fail(user):
    raise ValueError(user)

def refuse(outcome):
    raise ValueError(flask.request.args["user"])

@app.get("/<how>")
def view(how):
    user = flask.request.args["user"]
    sentry_sdk.set_user({"id": user})
    if how == "fail":
        defer(fail, user)
    elif how == "when":
        defer(fail, user).when(refuse)
    else:
        defer(time.sleep, 60)
        defer(fail, user)
    return "done"
"""
# It may be somewhere that only we know of.
FILES = {"tracked.py": f"import sys\nsys.path.append({PLACE!r})\n{APP}"}


def events_of(gunicorn, number, text=""):
    """That many events with that text, when they are there."""
    path = gunicorn.root / "events"

    def read():
        lines = whole_lines(path.read_text()) if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [each for each in events if text in (each["message"] or "")]

    gunicorn.until(lambda: len(read()) >= number, f"{number} events")
    return read()


@pytest.mark.parametrize("worker", ["gthread", "sync"])
@pytest.mark.parametrize("how", ["fail", "when"])
def test_a_failure_is_that_of_its_request(worker, how):
    """Its user and URL are those of the view, not of the one that started a thread."""
    conf = configuration(worker)
    with running(conf, app="tracked:app", files=FILES) as gunicorn:
        for number, user in enumerate(["ann", "bob", "eve"], 1):
            gunicorn.request(f"/{how}?user={user}")
            event = events_of(gunicorn, number)[-1]
            assert (event["error"], event["user"]) == (user, user)
            assert event["url"].endswith(f"/{how}")


def test_a_loss_is_that_of_its_request():
    """So are the lines on a call that waits, and on one that runs.

    INT cuts that off, so that the worker names both itself.
    """
    with running(configuration(), app="tracked:app", files=FILES) as gunicorn:
        gunicorn.request("/wait?user=ann")
        gunicorn.until(lambda: "is slow" in gunicorn.log, "a slow call")
        gunicorn.stop(signal.SIGINT)
        lost = events_of(gunicorn, 2, " lost")  # gunicorn logs an error, too
    assert {each["user"] for each in lost} == {"ann"}
