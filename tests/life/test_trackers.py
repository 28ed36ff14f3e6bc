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
TRANSACTIONS = os.open(Path(os.environ["LIFE_ROOT"]) / "transactions",
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
                "by": event["exception"]["values"][-1]["mechanism"]["type"]
                      if "exception" in event else None,
            }).encode() + b"\\n")
        for item in envelope.items:
            if item.type == "transaction":
                of = json.loads(item.payload.get_bytes())
                os.write(TRANSACTIONS, json.dumps([
                    of["transaction"], of["user"]["id"],
                    of["contexts"]["trace"]["trace_id"]]).encode() + b"\\n")

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
# The same with our observer.
OBSERVED = (
    FILES["tracked.py"]
    .replace(
        "Defer(app, slow_after=0.2)",
        "from wsgi_defer.observers.sentry import Sentry\n"
        "Defer(app, slow_after=0.2, observers=[Sentry()])",
    )
    .replace("transport=ToFile", "transport=ToFile, traces_sample_rate=1")
)


def lines_of(gunicorn, name):
    """What the app has written to that file so far."""
    path = gunicorn.root / name
    lines = whole_lines(path.read_text()) if path.exists() else []
    return [json.loads(line) for line in lines]


def events_of(gunicorn, number, text=""):
    """That many events with that text, when they are there."""

    def read():
        events = lines_of(gunicorn, "events")
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


def test_with_our_observer():
    """One event for each failure and for each loss, and a transaction for each call, in
    the trace of its request."""
    conf = configuration(ours=True)
    files = {"tracked.py": OBSERVED}
    with running(conf, app="tracked:app", files=files) as gunicorn:
        for number, user in enumerate(["ann", "bob", "eve"], 1):
            gunicorn.request(f"/fail?user={user}")
            events_of(gunicorn, number)

            def are_there(number=number):
                return len(lines_of(gunicorn, "transactions")) == 2 * number

            gunicorn.until(are_there, "transactions of the view and the call")
        gunicorn.request("/wait?user=joe")
        gunicorn.until(lambda: "is slow" in gunicorn.log, "a slow call")
        gunicorn.stop(signal.SIGINT)
        events = events_of(gunicorn, 5)
        transactions = lines_of(gunicorn, "transactions")
    failures = [(each["error"], each["user"], each["by"]) for each in events[:3]]
    assert failures == [(user, user, "wsgi_defer") for user in ("ann", "bob", "eve")]
    lost = [each for each in events[3:] if " lost" in each["message"]]
    assert [each["user"] for each in lost] == ["joe", "joe"]
    for user in ("ann", "bob", "eve"):
        of_user = [each for each in transactions if each[1] == user]
        assert {each[0] for each in of_user} == {"view", "tracked.fail"}
        assert len({trace for _, _, trace in of_user}) == 1
