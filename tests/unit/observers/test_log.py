"""The fields of log lines, by the formatters that write them as JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from pathlib import Path

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

from wsgi_defer import DeferMiddleware, before_response, defer, deferring
from wsgi_defer._calls.drain import report_lost
from wsgi_defer._runtime import events
from wsgi_defer.observers._log import log_lost

from ...helpers.client import get, make_environ

PAGE = Path(__file__).parents[3] / "docs" / "observe.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
(STRUCTLOG,) = [block for block in BLOCKS if "import structlog" in block]
(FINISHED,) = [block for block in BLOCKS if "setLevel" in block]
OF_CALLS = {"event", "worker", "call", "kind", "origin", "request_id", "status",
            "waited", "ran"}  # fmt: skip


def test_where_a_call_is_lost_does_not_change_the_line(caplog):
    """Its worker says it as gunicorn's master does, but that knows less."""
    with deferring() as scope:
        defer(int).named("mail")
        report_lost(scope, "worker 7 ended")
    log_lost({"call": "mail", "kind": "deferred", "why": "worker 7 ended"})
    facts = {"call": "mail", "kind": "deferred", "request_id": "a", "ran": 1.25}
    log_lost({**facts, "why": "worker 7 ended"})
    workers, masters, running = caplog.messages
    assert re.sub("; from .*", "", workers) == masters
    assert masters == "deferred call mail lost: worker 7 ended"
    assert running == (
        "deferred call mail lost while it ran (1.2 s): worker 7 ended; request a"
    )


def fail():
    raise ValueError("secret")


def view(environ, start_response):
    before_response(int).named("first")
    defer(int, "1").named("second")
    defer(fail).named("third")
    defer(int).named("fourth").on_failure()
    start_response("201 Created", [("Content-Length", "0")])
    return []


def lines_of(formatter):
    """What that formatter writes of a request, each line as a dict."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.getLogger("wsgi_defer")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        get(DeferMiddleware(view), environ=make_environ(HTTP_X_REQUEST_ID="abc-1"))
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def structlogs():
    """The formatter that the page sets up."""
    namespace = {}
    exec(STRUCTLOG, namespace)
    logging.getLogger().removeHandler(namespace["handler"])
    return namespace["handler"].formatter


@pytest.mark.parametrize("kind", ["python-json-logger", "structlog"])
def test_json(kind, structlogs):
    """Each line has all of the facts, as fields of their kinds."""
    formatter = JsonFormatter() if kind == "python-json-logger" else structlogs
    assert isinstance(structlogs, structlog.stdlib.ProcessorFormatter)
    lines = lines_of(formatter)
    fields = [
        {
            name.removeprefix("wsgi_defer_"): value
            for name, value in line.items()
            if name.startswith("wsgi_defer_")
        }
        for line in lines
    ]
    assert [(each["event"], each["call"]) for each in fields] == [
        ("finished", "first"),
        ("finished", "second"),
        ("failed", "third"),
        ("skipped", "fourth"),
    ]
    first, second, third, fourth = fields
    assert first.keys() == OF_CALLS - {"status"}  # which is still to come
    assert second.keys() == OF_CALLS
    assert third.keys() == OF_CALLS | {"error"}
    assert fourth.keys() == OF_CALLS - {"ran"} | {"why"}
    assert {each["worker"] for each in fields} == {os.getpid()}
    assert {each["request_id"] for each in fields} == {"abc-1"}
    assert first["kind"] == "before_response"
    assert second["kind"] == "deferred"
    assert second["status"] == 201
    assert isinstance(second["waited"], float)
    assert isinstance(second["ran"], float)
    assert third["error"] == "ValueError"
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+", third["origin"])
    assert "ValueError: secret" in str(lines[2])  # its message, in the traceback
    assert "status is 201" in fourth["why"]


def test_the_log_shows_what_finishes_from_now_on(caplog):
    """Its level may change at any time."""
    log = logging.getLogger("wsgi_defer")

    def run():
        caplog.clear()
        with deferring():
            defer(int).named("mail")
        return caplog.messages

    assert run() == []
    caplog.set_level(logging.DEBUG, log.name)  # which is undone, and so what follows
    log.setLevel(logging.INFO)
    exec(FINISHED)
    (line,) = run()
    assert re.match(r"deferred call mail finished in 0\.\d\d\d s; from ", line)
    caplog.set_level(events.FINISHED.level + 1, log.name)
    assert run() == []


def test_a_call_that_is_awaited_is_shown_at_once(caplog):
    """Though the log did not show what finishes when the request began."""
    with deferring():
        call = defer(int).named("early")
        caplog.set_level(logging.DEBUG, "wsgi_defer")
        assert call.result() == 0
        (line,) = caplog.messages
    assert line.startswith("deferred call early finished")
