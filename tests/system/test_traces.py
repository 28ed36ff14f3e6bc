"""OpenTelemetry and Sentry with all that they change in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES

DJANGO = """
    import json, sys
    from django.conf import settings
    order = sys.argv[1]
    ours = [] if order == "door" else ["wsgi_defer.django.DeferMiddleware"]
    settings.configure(
        SECRET_KEY="x", ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], MIDDLEWARE=ours,
        INSTALLED_APPS=["wsgi_defer.django"], WSGI_DEFER={},
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}})
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter)

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    from wsgi_defer import DeferMiddleware, defer
    from wsgi_defer.observers.opentelemetry import Tracing
    tracing = Tracing(provider, meters)
    settings.WSGI_DEFER["observers"] = [tracing]
    DjangoInstrumentor().instrument(
        tracer_provider=provider, meter_provider=meters,
        middleware_position=1 if order == "inside" else 0)

    def metrics():
        data = reader.get_metrics_data()
        return [m.name for r in data.resource_metrics for s in r.scope_metrics
                for m in s.metrics]

    def call():
        seen.append("http.server.duration" in metrics())

    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    def view(request):
        defer(call).named("call")
        return HttpResponse("done")

    def stream(request):
        defer(call).named("call")
        return StreamingHttpResponse(each for each in ["a", "b"])

    urlpatterns = [path("view", view), path("stream", stream)]
    from django.core.wsgi import get_wsgi_application
    from werkzeug.test import Client
    app = get_wsgi_application()
    if order == "door":
        app = DeferMiddleware(app, observers=[tracing])
    for target in ("view", "stream"):
        seen = []
        Client(app).get("/" + target, buffered=True)
        first, second = spans = exporter.get_finished_spans()
        exporter.clear()
        print(json.dumps({
            "names": [span.name for span in spans],
            "order": first.end_time <= second.start_time,
            "linked": [link.context.span_id for link in second.links]
                      == [first.context.span_id],
            "latency": seen}))
"""


def run(program, *args):
    """Run it; return the lines of JSON that it has printed, and its log."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), *args],
        capture_output=True, text=True, check=False, cwd=HOME, timeout=OF_PROCESSES,
        env={**os.environ, "PYTHONPATH": HOME},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("order", ["inside", "outside", "door"])
def test_with_the_instrumentation_of_django(order):
    """Its middleware inside of ours, or outside; or ours in wsgi.py."""
    requests, log = run(DJANGO, order)
    assert log == ""
    assert [request.pop("names") for request in requests] == [
        ["GET view", "call"],
        ["GET stream", "call"],
    ]
    assert requests == [{"order": True, "linked": True, "latency": [True]}] * 2


SENTRY = """
    import json, logging, sys, threading
    import flask, sentry_sdk
    from sentry_sdk.transport import Transport
    from werkzeug.test import Client
    from wsgi_defer import Observer, background, defer
    from wsgi_defer.flask import Defer
    from wsgi_defer.jobs import Jobs
    from wsgi_defer.observers.sentry import Sentry

    sent = []

    class Keep(Transport):
        def capture_envelope(self, envelope):
            sent.extend((item.type, json.loads(item.payload.get_bytes()))
                        for item in envelope.items)

    sentry_sdk.init("http://a@127.0.0.1:1/1", transport=Keep, traces_sample_rate=1)
    app = flask.Flask("shop")

    class Faulty(Observer):
        def finished(self, call, scope):
            raise OSError("of an observer")

    Defer(app, observers=[Sentry(), Faulty()])
    jobs = Jobs(None)
    jobs.init_app(app)

    def fail(user):
        logging.getLogger("shop").info("in the call")
        raise ValueError(user)

    @jobs.handler("mail")
    def mail(payload):
        raise KeyError(payload)

    @app.get("/<how>")
    def view(how):
        user = flask.request.args["user"]
        sentry_sdk.set_user({"id": user})
        logging.getLogger("shop").info("in the view")
        if how == "fail":
            defer(fail, user)
        elif how == "job":
            jobs.enqueue("mail", user)
        elif how == "observer":
            defer(int)
        else:
            1 / 0
        return "done"

    logging.getLogger().setLevel("INFO")
    for how, user in (("fail", "ann"), ("fail", "bob"), ("observer", "eve"),
                      ("job", "joe"), ("view", "ida")):
        sent.clear()
        thread = threading.Thread(
            target=Client(app).get, args=["/" + how],
            kwargs={"query_string": {"user": user}, "buffered": True})
        thread.start()  # as a server: the context is empty
        thread.join()
        background.join(60)
        events = [event for kind, event in sent if kind == "event"]
        print(json.dumps({
            "errors": [(error["value"], error["mechanism"]["type"],
                        error["mechanism"]["handled"])
                       for event in events for error in event["exception"]["values"]],
            "of": [(event["user"]["id"], event["request"]["url"][-len(how):])
                   for event in events],
            "crumbs": [each["message"] for event in events
                       for each in event.get("breadcrumbs", {}).get("values", [])],
            "transactions": [event["transaction"] for kind, event in sent
                             if kind == "transaction"],
            "traces": len({event["contexts"]["trace"]["trace_id"]
                           for kind, event in sent
                           if kind in ("event", "transaction")}),
        }))
"""


def test_sentry_in_flask():
    """With all its integrations: one event for each failure, also in the log; of the
    request that deferred the call; in one trace."""
    fails, again, observer, job, view = run(SENTRY)[0]
    for each, user in ((fails, "ann"), (again, "bob")):
        assert each == {
            "errors": [[user, "wsgi_defer", False]],
            "of": [[user, "fail"]],
            "crumbs": ["in the call"],
            "transactions": ["view", "__main__.fail"],
            "traces": 1,
        }
    assert observer["errors"] == [["of an observer", "wsgi_defer", False]]
    assert job["errors"] == [["'joe'", "wsgi_defer", False]]
    assert job["of"] == [["joe", "job"]]
    assert "mail" in job["transactions"]
    assert job["traces"] == 1
    assert view["errors"] == [["division by zero", "flask", False]]
