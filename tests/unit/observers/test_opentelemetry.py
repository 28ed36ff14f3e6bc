"""Spans and histograms of calls and jobs, by OpenTelemetry's own SDK."""

from __future__ import annotations

import threading

import flask
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from werkzeug.test import Client

from wsgi_defer import (
    DeferMiddleware,
    background,
    before_response,
    current_scope,
    defer,
    deferring,
)
from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.observers import opentelemetry
from wsgi_defer.observers.opentelemetry import Tracing

from ...helpers.client import get, text_app
from ...helpers.orders import handle_abort


class Telemetry:
    """What was exported, and ``Tracing`` that exports it."""

    quiet = True

    def __init__(self, **options):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.provider.get_tracer("tests")
        self.providers = {
            "tracer_provider": self.provider,
            "meter_provider": self.meters,
        }
        self.tracing = Tracing(**self.providers, **options)

    def spans(self):
        """Those that have ended, by name; two of one name are an error."""
        spans = self.exporter.get_finished_spans()
        found = {span.name: span for span in spans}
        assert len(found) == len(spans)
        return found

    def points(self, name):
        """The points of a histogram."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry(caplog):
    """And nothing is logged by OpenTelemetry."""
    made = Telemetry()
    yield made
    if made.quiet:
        records = caplog.get_records("call")
        assert not [each for each in records if "opentelemetry" in each.name]


def links(span):
    return [link.context.span_id for link in span.links]


def served(app, number=1):
    """Send requests to an app, and wait for the calls."""
    for _ in range(number):
        get(app)
    assert background.join(30)


def in_a_request(telemetry, view, **options):
    """An app whose requests have a span around the view."""

    def app(environ, start_response):
        with telemetry.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            return text_app(view)(environ, start_response)

    options.setdefault("observers", [telemetry.tracing])
    return DeferMiddleware(app, **options)


@pytest.mark.parametrize("inline", [True, False])
def test_a_call_is_a_span_that_is_linked(telemetry, inline):
    """It begins a trace; what the call does is inside of it."""

    def call():
        with telemetry.tracer.start_as_current_span("query"):
            pass

    def view():
        defer(call).named("mail")

    served(in_a_request(telemetry, view, inline=inline))
    spans = telemetry.spans()
    request, mail, query = spans["request"], spans["mail"], spans["query"]
    assert mail.parent is None
    assert mail.context.trace_id != request.context.trace_id
    assert links(mail) == [request.context.span_id]
    assert query.parent.span_id == mail.context.span_id
    assert request.end_time <= mail.start_time
    assert mail.status.status_code is StatusCode.UNSET
    assert mail.attributes["code.file.path"] == __file__
    assert mail.attributes["code.line.number"] == view.__code__.co_firstlineno + 1
    assert mail.attributes["wsgi_defer.result"] == "finished"
    assert mail.attributes["wsgi_defer.waited"] >= 0
    assert mail.attributes["wsgi_defer.request_id"]


def test_by_option_it_is_a_child():
    """Of the span at the line that has deferred it, in the same trace."""
    telemetry = Telemetry(child=True)
    served(in_a_request(telemetry, lambda: defer(int)))
    spans = telemetry.spans()
    assert spans["builtins.int"].parent.span_id == spans["request"].context.span_id
    assert not spans["builtins.int"].links


def test_a_failure(telemetry):
    """Its status, and the exception as an event of the span; no arguments."""

    def fail(secret):
        raise ValueError("no such user")

    served(in_a_request(telemetry, lambda: defer(fail, "hush").named("mail")))
    mail = telemetry.spans()["mail"]
    assert mail.status.status_code is StatusCode.ERROR
    assert mail.status.description == "ValueError: no such user"
    assert mail.attributes["wsgi_defer.result"] == "failed"
    [event] = mail.events
    assert event.attributes["exception.message"] == "no such user"
    assert "hush" not in mail.to_json()


def test_an_error_that_cannot_be_shown(telemetry):
    """The span ends all the same."""

    class OddError(Exception):
        def __str__(self):
            raise OSError

    def fail():
        raise OddError

    served(in_a_request(telemetry, lambda: defer(fail).named("mail")))
    assert telemetry.spans()["mail"].attributes["wsgi_defer.result"] == "failed"


def test_a_condition_that_raises(telemetry):
    """The call did not start, and has a span all the same, as it has failed."""
    served(in_a_request(telemetry, lambda: defer(int).when(lambda outcome: 1 / 0)))
    span = telemetry.spans()["builtins.int"]
    assert span.status.description == "ZeroDivisionError: division by zero"
    assert telemetry.tracing._open == {}


def test_a_lost_call(telemetry):
    """Its span ends with it. One that did not start has none."""

    def view():
        with deferring(observers=[telemetry.tracing]):
            defer(handle_abort).named("cut off")
            defer(int).named("never")

    with pytest.raises(SystemExit):
        view()
    spans = telemetry.spans()
    assert list(spans) == ["cut off"]
    assert spans["cut off"].status.status_code is StatusCode.ERROR
    assert spans["cut off"].attributes["wsgi_defer.result"] == "lost"
    assert telemetry.tracing._open == {}


def test_while_the_request_waits_for_it_a_call_is_a_child(telemetry):
    """Before the response, or where its result is asked for."""

    def view():
        defer(int).named("early").result()
        before_response(int).named("before")

    served(in_a_request(telemetry, view))
    spans = telemetry.spans()
    request = spans["request"].context
    for name in ("early", "before"):
        assert spans[name].parent.span_id == request.span_id


def test_a_block_inside_a_request(telemetry):
    """Its calls are children, and do not end the request's span."""

    def view():
        with deferring(observers=[telemetry.tracing]):
            defer(int).named("in block")
        trace.get_current_span().set_attribute("still", "open")

    served(in_a_request(telemetry, view))
    spans = telemetry.spans()
    request = spans["request"]
    assert spans["in block"].parent.span_id == request.context.span_id
    assert request.attributes["still"] == "open"


def test_a_call_of_a_call(telemetry):
    """It is linked to that."""
    served(
        in_a_request(telemetry, lambda: defer(lambda: defer(int)).named("one")),
    )
    spans = telemetry.spans()
    assert links(spans["builtins.int"]) == [spans["one"].context.span_id]


def test_without_a_span(telemetry):
    """Outside of any trace, a call has a span without links."""
    app = DeferMiddleware(text_app(lambda: defer(int)), observers=[telemetry.tracing])
    served(app)
    span = telemetry.spans()["builtins.int"]
    assert not span.links
    assert span.parent is None


class Look:
    """A call that looks how many latencies of requests have been noted so far."""

    def __init__(self, telemetry):
        self.telemetry = telemetry
        self.latencies = None

    def __call__(self):
        self.latencies = len(self.telemetry.points("http.server.duration"))

    def assert_request_is_over(self):
        """When the call starts: its span, and its latency."""
        spans = self.telemetry.spans()
        request, call = spans["GET /"], spans["look"]
        assert request.end_time <= call.start_time
        assert links(call) == [request.context.span_id]
        later = len(self.telemetry.points("http.server.duration"))
        assert self.latencies == later
        return later


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("body", ["list", "generator", "empty"])
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_with_the_instrumentation_of_wsgi(telemetry, order, body, inline):
    """Whatever stands outside. If that is the instrumentation, it would end the span
    after the calls that run in ``close()``."""

    look = Look(telemetry)
    telemetry.quiet = inline  # the background thread may end the span, too

    def view(environ, start_response):
        defer(look).named("look")
        start_response("200 OK", [("Content-Type", "text/plain")])
        bodies = {"list": [b"a", b"b"], "empty": []}
        return bodies[body] if body in bodies else (each for each in [b"a", b"b"])

    def ours(app):
        return DeferMiddleware(app, inline=inline, observers=[telemetry.tracing])

    def theirs(app):
        return OpenTelemetryMiddleware(app, **telemetry.providers)

    app = ours(theirs(view)) if order == "inside" else theirs(ours(view))
    served(app)
    assert look.assert_request_is_over() == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_with_the_instrumentation_of_flask(telemetry, order, stream):
    """Set up before our extension, or after it; its hooks run once for a request."""
    app = flask.Flask(__name__)
    look = Look(telemetry)

    def instrument():
        FlaskInstrumentor().instrument_app(app, **telemetry.providers)

    def extend():
        Defer(app, inline=True, observers=[telemetry.tracing])

    for step in (instrument, extend) if order == "inside" else (extend, instrument):
        step()

    @app.get("/")
    def view():
        defer(look).named("look")
        if stream:
            return flask.stream_with_context(each for each in "ab")
        return "done"

    Client(app).get("/", buffered=True)
    # The head of a stream waits here for its first item, when the instrumentation no
    # longer sees a request, and notes nothing.
    blind = stream and order == "outside"
    assert look.assert_request_is_over() == (0 if blind else 1)


def test_names_in_metrics_are_few(telemetry, monkeypatch):
    """An app may name its calls by user. Each name would be a time series."""
    monkeypatch.setattr(opentelemetry, "MOST_NAMES", 2)

    def view():
        for number in range(4):
            defer(int).named(f"user {number}")

    served(in_a_request(telemetry, view), 2)
    points = telemetry.points("wsgi_defer.call.wait")
    counts = {point.attributes["wsgi_defer.call"]: point.count for point in points}
    assert counts == {"user 0": 2, "user 1": 2, "other": 4}
    assert {point.attributes["wsgi_defer.result"] for point in points} == {"finished"}


def test_an_end_without_a_start(telemetry):
    """It began to observe while the call ran."""
    scopes = []

    def call():
        telemetry.tracing.finished(scopes[0].running, scopes[0])

    app = in_a_request(
        telemetry, lambda: scopes.append(current_scope()) or defer(call), observers=[]
    )
    served(app)
    assert list(telemetry.spans()) == ["request"]


def test_global_providers_that_are_set_later():
    """``Tracing()`` is often made first; without any, it does nothing."""
    app = DeferMiddleware(text_app(lambda: defer(int)), observers=[Tracing()])
    served(app)


@pytest.mark.parametrize("child", [False, True])
def test_a_job(child):
    """From ``enqueue()`` to the worker: linked to that, or a child of it."""
    telemetry = Telemetry(child=child)
    jobs = Jobs(observers=[telemetry.tracing])

    @jobs.handler("mail.welcome")
    def welcome(payload):
        assert payload == {"to": "ada"}
        defer(int).named("after")

    order = []
    with telemetry.tracer.start_as_current_span("view"):
        order.append(jobs._order("mail.welcome", {"to": "ada"}, "x", 0))
    assert '\n{"traceparent":"00-' in order[0].payload

    def work():
        jobs.run("mail.welcome", order[0].payload, "x", 1, last=True)

    worker = threading.Thread(target=work)  # in a context without a span
    worker.start()
    worker.join(30)
    spans = telemetry.spans()
    view, job = spans["view"].context, spans["mail.welcome"]
    if child:
        assert (job.parent.span_id, job.context.trace_id) == (
            view.span_id,
            view.trace_id,
        )
    else:
        assert job.parent is None
        assert links(job) == [view.span_id]
    assert job.kind is SpanKind.CONSUMER
    assert dict(job.attributes) == {
        "wsgi_defer.job_id": "x",
        "wsgi_defer.attempt": 1,
        "wsgi_defer.result": "finished",
    }
    assert spans["after"].parent.span_id == job.context.span_id


@pytest.mark.parametrize("last", [False, True])
def test_a_job_that_fails(last):
    """Each attempt has a span, with the exception."""
    telemetry = Telemetry()
    jobs = Jobs(observers=[telemetry.tracing])

    @jobs.handler("fail")
    def fail(payload):
        raise ValueError(payload)

    with pytest.raises(ValueError, match="1"):
        jobs.run("fail", "1", "x", 1, last=last)
    job = telemetry.spans()["fail"]
    assert job.status.status_code is StatusCode.ERROR
    assert job.attributes["wsgi_defer.result"] == ("failed" if last else "retried")
    [event] = job.events
    assert event.attributes["exception.type"] == "ValueError"
    assert not job.links


def test_a_job_outside_a_trace():
    """It is stored as without an observer."""
    jobs = Jobs(observers=[Telemetry().tracing])
    jobs.handler("int")(int)
    assert jobs._order("int", "1", "x", 0).payload == '"1"'


class Flushes:
    """A provider that can be told to send."""

    def __init__(self):
        self.asked = []

    def get_tracer(self, *args, **kwargs):
        return trace.NoOpTracer()

    def get_meter(self, *args, **kwargs):
        return NoOpMeter("tests")

    def force_flush(self, milliseconds):
        self.asked.append(milliseconds)


def test_flush():
    """Where a process ends without exit handlers. The API's own providers cannot."""
    provider = Flushes()
    Tracing(provider, provider).flush()
    assert provider.asked == [2000, 2000]
    Tracing().flush()
