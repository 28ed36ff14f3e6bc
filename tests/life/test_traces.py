"""OpenTelemetry under gunicorn: whose worker class it is, the spans tell the same."""

from __future__ import annotations

import json

import pytest

from ..helpers.waiting import whole_lines
from .gunicorns import configuration, running

APP = """
import json, os
from pathlib import Path
from opentelemetry import trace
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor, SpanExporter, SpanExportResult)
from tests.life.app import note
from wsgi_defer import DeferMiddleware, before_response, defer
from wsgi_defer.observers.opentelemetry import Tracing

SPANS = os.open(Path(os.environ["LIFE_ROOT"]) / "spans",
                os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class ToFile(SpanExporter):
    def export(self, spans):
        for span in spans:
            line = json.dumps({
                "name": span.name, "start": span.start_time, "end": span.end_time,
                "id": span.context.span_id, "trace": span.context.trace_id,
                "parent": span.parent and span.parent.span_id,
                "links": [link.context.span_id for link in span.links]})
            os.write(SPANS, line.encode() + b"\\n")
        return SpanExportResult.SUCCESS

provider = TracerProvider()
# Nothing is sent before the worker ends.
provider.add_span_processor(BatchSpanProcessor(
    ToFile(), schedule_delay_millis=600_000))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")

def mail():
    with tracer.start_as_current_span("query"):
        pass
    note("finished", "mail")

def view(environ, start_response):
    defer(mail).named("mail")
    before_response(int).named("before")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

# Outside, where it would count the calls in; and Tracing() is made first.
app = OpenTelemetryMiddleware(DeferMiddleware(view, observers=[Tracing()]))
"""


@pytest.mark.parametrize(
    ("worker", "ours"),
    [("sync", False), ("sync", True), ("gthread", True), ("gevent", True)],
)
def test_spans_of_a_worker(worker, ours):
    """The request's ends first; the call's is linked to it; TERM loses none."""
    conf = configuration(worker, ours=ours, keepalive=1)
    with running(conf, app="traced:app", files={"traced.py": APP}) as gunicorn:
        for number in range(1, 4):
            gunicorn.request("/")
            gunicorn.until(
                lambda number=number: len(gunicorn.all_notes("finished")) == number,
                "the call",
            )
        gunicorn.stop()
        lines = whole_lines((gunicorn.root / "spans").read_text())
        assert "ended span" not in gunicorn.log
    spans = [json.loads(line) for line in lines]
    requests = {span["id"]: span for span in spans if span["name"] == "GET /"}
    mails = {span["id"]: span for span in spans if span["name"] == "mail"}
    assert len(requests) == len(mails) == 3
    for mail in mails.values():
        [link] = mail["links"]
        request = requests.pop(link)  # each of another one
        assert request["end"] <= mail["start"]
        assert mail["parent"] is None
        [before] = [each for each in spans if each["parent"] == link]
        assert before["name"] == "before"
    queries = [span for span in spans if span["name"] == "query"]
    assert {query["parent"] for query in queries} == set(mails)
