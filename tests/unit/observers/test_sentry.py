"""Sentry's own SDK, without its integrations, which change the whole process."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager

import pytest
import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport

from wsgi_defer import (
    DeferMiddleware,
    background,
    before_response,
    defer,
    deferring,
)
from wsgi_defer._runtime import report
from wsgi_defer.jobs import Jobs
from wsgi_defer.observers.sentry import Sentry, _capture

from ...helpers.client import get, make_environ, text_app
from ...helpers.orders import handle_abort


class Sent(Transport):
    """What would have been sent."""

    def __init__(self, options=None):
        super().__init__(options)
        self.events = []
        self.transactions = []
        self.spans = []
        self.flushed = 0

    def capture_envelope(self, envelope):
        for item in envelope.items:
            kept = {"event": self.events, "transaction": self.transactions}
            payload = json.loads(item.payload.get_bytes())  # as it would be sent
            kept.get(item.type, []).append(payload)
            if item.type == "span":
                self.spans += payload["items"]

    def flush(self, timeout, callback=None):
        self.flushed += 1


@contextmanager
def set_up(**options):
    """Sentry is set up inside, with a scope of its own; it has sent all at the end."""
    sending = Sent()
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(
            "http://a@127.0.0.1:1/1", transport=sending, traces_sample_rate=1.0,
            default_integrations=False, auto_enabling_integrations=False, **options,
        )  # fmt: skip
        try:
            yield sending
        finally:
            sentry_sdk.get_client().close()
            sentry_sdk.get_global_scope().set_client(None)
            report.logger.removeFilter(_capture)


@pytest.fixture
def sent():
    """What was sent in one test."""
    with set_up() as sending:
        yield sending


def fail(*args, **kwargs):
    raise ValueError("no such user")


def served(view, target="/", **options):
    """One request, with Sentry around it as its Flask integration has it."""
    options.setdefault("observers", [Sentry()])
    app = SentryWsgiMiddleware(DeferMiddleware(text_app(view), **options))
    get(app, environ=make_environ(PATH_INFO=target))
    assert background.join(30)


@pytest.mark.parametrize("inline", [True, False])
def test_a_failure_is_an_event(sent, inline):
    """It is the view's: request, user, tags and trace; its breadcrumbs are its own."""

    def call():
        sentry_sdk.add_breadcrumb(message="in the call")
        fail()

    def view():
        sentry_sdk.add_breadcrumb(message="in the view")
        sentry_sdk.set_user({"id": "ada"})
        sentry_sdk.set_tag("shop", "one")
        defer(sentry_sdk.add_breadcrumb, message="in another call")
        defer(call).named("mail")

    served(view, "/signup", inline=inline)
    [event] = sent.events
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "no such user")
    assert error["mechanism"] == {"type": "wsgi_defer", "handled": False}
    assert (event["level"], event["logger"]) == ("error", "wsgi_defer")
    assert "deferred call mail failed; request " in event["logentry"]["message"]
    assert event["request"]["url"].endswith("/signup")
    assert event["user"]["id"] == "ada"
    assert event["tags"] == {"shop": "one", "wsgi_defer.call": "mail"}
    assert event["contexts"]["wsgi_defer"]["origin"].startswith(__file__)
    crumbs = event["breadcrumbs"]["values"]
    assert [each["message"] for each in crumbs] == ["in the call"]
    request, _, mail = sent.transactions
    of_event = event["contexts"]["trace"]
    of_mail = mail["contexts"]["trace"]
    assert of_event["trace_id"] == request["contexts"]["trace"]["trace_id"]
    assert of_event["span_id"] == of_mail["span_id"]


def test_of_no_other_request(sent):
    """Two users, one thread, and what one call sets is not in the next one."""

    def call(user):
        sentry_sdk.set_tag(f"of_{user}", "1")
        raise ValueError(user)

    for user in ("ann", "bob"):

        def view(user=user):
            sentry_sdk.set_user({"id": user})
            defer(call, user)
            defer(call, user)

        served(view, inline=False)
    users = [each["user"]["id"] for each in sent.events]
    assert users == ["ann", "ann", "bob", "bob"]
    for event in sent.events:
        assert event["exception"]["values"][0]["value"] == event["user"]["id"]
        own = {f"of_{event['user']['id']}", "wsgi_defer.call"}
        assert set(event["tags"]) == own


def test_a_call_is_a_transaction_of_the_trace(sent):
    """Its spans are in it. The request's transaction has ended before."""

    def call():
        with sentry_sdk.start_span(op="db", name="query"):
            pass

    def view():
        with sentry_sdk.start_span(op="step", name="step"):
            defer(call).named("mail")

    served(view, inline=True)
    request, mail = sent.transactions
    trace, of_request = mail["contexts"]["trace"], request["contexts"]["trace"]
    assert (mail["transaction"], trace["op"]) == ("mail", "wsgi_defer.call")
    assert trace["trace_id"] == of_request["trace_id"]
    [step] = request["spans"]
    assert trace["parent_span_id"] == step["span_id"]  # at the line that deferred it
    assert [span["description"] for span in mail["spans"]] == ["query"]
    assert mail["timestamp"] >= mail["start_timestamp"] >= request["timestamp"]
    assert trace["status"] == "ok"


def test_the_status_of_transactions(sent):
    """Of one that has failed, and of one that an order to stop cut off."""
    served(lambda: defer(fail), inline=True)
    assert sent.transactions[-1]["contexts"]["trace"]["status"] == "internal_error"
    with pytest.raises(SystemExit):
        served(lambda: defer(handle_abort), inline=True)
    assert sent.transactions[-1]["contexts"]["trace"]["status"] == "aborted"
    mechanisms = [
        each["exception"]["values"][0]["mechanism"]["type"] for each in sent.events
    ]
    assert mechanisms == ["wsgi_defer", "wsgi"]  # the order itself is none of ours


def test_while_the_request_waits_for_it_a_call_is_a_span(sent):
    """Of the request's transaction."""
    observer = Sentry()

    def view():
        defer(int).named("early").result()
        before_response(int).named("before")
        with deferring(observers=[observer]):
            defer(int).named("in block")
        with sentry_sdk.start_span(op="step", name="after"):
            pass

    served(view, observers=[observer])
    [request] = sent.transactions
    names = [span["description"] for span in request["spans"]]
    assert names == ["early", "in block", "after", "before"]
    root = request["contexts"]["trace"]["span_id"]
    assert {span["parent_span_id"] for span in request["spans"]} == {root}


def test_a_block_outside_of_any_trace(sent):
    """As in a command: a call is a transaction."""
    with deferring(observers=[Sentry()]):
        defer(int).named("one")
    [transaction] = sent.transactions
    assert transaction["transaction"] == "one"


def test_a_condition_that_raises(sent):
    """The call did not start; its failure is one event of the request."""

    def view():
        sentry_sdk.set_user({"id": "ada"})
        defer(int).when(lambda outcome: 1 / 0)

    served(view)
    [event] = sent.events
    assert event["user"]["id"] == "ada"


def test_a_failure_that_is_dealt_with(sent):
    """The app knows of it. If nobody deals with it after all, it is one event."""

    def view():
        defer(fail).catch(print)
        defer(fail).then(print)

    served(view)
    assert len(sent.events) == 1


@pytest.mark.parametrize("arguments", [False, True])
def test_arguments(sent, arguments):
    """Only if they are asked for; and those of calls that do not run are let go."""
    observer = Sentry(arguments=arguments)

    def view():
        defer(fail, "se" + "cret", to=["ad" + "a"])
        defer(int, "x").on_failure()
        defer(int, "y").cancel()

    served(view, observers=[observer])
    assert observer._given == {}
    [event] = sent.events
    about = event["contexts"]["wsgi_defer"]
    if arguments:
        assert (about["args"], about["kwargs"]) == (["secret"], {"to": ["ada"]})
        return
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert any(frame["module"].startswith("wsgi_defer.") for frame in frames)
    # Sentry shows the variables of the app's own functions, and no others.
    assert frames[-1].pop("vars") == {"args": ["'secret'"], "kwargs": {"to": ["'ada'"]}}
    assert "secret" not in json.dumps(event)


def test_without_sentry():
    """Nothing was set up yet, or ever."""
    observer = Sentry()
    app = DeferMiddleware(text_app(lambda: defer(fail)), observers=[observer])
    get(app)
    assert background.join(30)
    assert observer._open == {}
    carrier = {}
    observer.enqueuing("mail", carrier)
    assert carrier == {}
    report.logger.removeFilter(_capture)


def test_spans_that_are_streamed():
    """Where the app has chosen them, they tell the same."""
    with set_up(trace_lifecycle="stream") as sending:

        def view():
            with sentry_sdk.traces.start_span("step"):
                defer(fail).named("mail")
            defer(int).named("early").result()

        served(view, inline=True)
        jobs, payload = jobs_and_payload("ada")
        elsewhere(lambda: jobs.run("mail.welcome", payload, "x", 1, last=False))
    spans = {span["name"]: span for span in sending.spans}
    request = spans["generic WSGI request"]
    mail, early, job = spans["mail"], spans["early"], spans["mail.welcome"]
    assert mail["trace_id"] == early["trace_id"] == request["trace_id"]
    assert mail["parent_span_id"] == spans["step"]["span_id"]
    assert early["parent_span_id"] == request["span_id"]
    assert spans["after"]["parent_span_id"] == job["span_id"]
    statuses = [span["status"] for span in (mail, early, job)]
    assert statuses == ["error", "ok", "ok"]
    assert mail["attributes"]["sentry.op"]["value"] == "wsgi_defer.call"
    [event] = sending.events
    assert event["contexts"]["trace"]["span_id"] == mail["span_id"]


def jobs_and_payload(payload):
    """``Jobs`` with a handler, and a job's payload as it is stored."""
    jobs = Jobs(observers=[Sentry()])

    @jobs.handler("mail.welcome", attempts=2)
    def welcome(payload):
        sentry_sdk.add_breadcrumb(message="in the job")
        defer(int).named("after")
        if payload == "fail":
            raise ValueError

    return jobs, jobs._order("mail.welcome", payload, "x", 0).payload


def elsewhere(work):
    """Do it in a thread, whose context is empty."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


def test_a_job(sent):
    """A transaction, in the trace that has enqueued it; its calls are its spans."""
    with sentry_sdk.start_transaction(name="view") as view:
        jobs, payload = jobs_and_payload("ada")
    elsewhere(lambda: jobs.run("mail.welcome", payload, "x", 1, last=False))
    job = sent.transactions[1]
    trace = job["contexts"]["trace"]
    assert (job["transaction"], trace["op"]) == ("mail.welcome", "wsgi_defer.job")
    assert trace["trace_id"] == view.trace_id
    assert trace["parent_span_id"] == view.span_id
    assert [span["description"] for span in job["spans"]] == ["after"]
    assert sent.events == []


def test_a_job_that_fails(sent):
    """One event, when it has failed for good."""
    jobs, payload = jobs_and_payload("fail")

    def work(number):
        sentry_sdk.add_breadcrumb(message="before the job")
        with pytest.raises(ValueError):
            jobs.run("mail.welcome", payload, "x", number, last=number == 2)

    elsewhere(lambda: work(1))
    assert sent.events == []
    elsewhere(lambda: work(2))
    [event] = sent.events
    assert event["exception"]["values"][0]["mechanism"]["type"] == "wsgi_defer"
    assert event["tags"] == {"wsgi_defer.job": "mail.welcome"}
    assert event["contexts"]["wsgi_defer"]["number"] == 2
    crumbs = event["breadcrumbs"]["values"]
    assert [each["message"] for each in crumbs] == ["in the job"]
    statuses = [each["contexts"]["trace"]["status"] for each in sent.transactions]
    assert statuses == ["internal_error", "internal_error"]


def test_flush(sent):
    """Where a process ends without exit handlers."""
    Sentry().flush()
    assert sent.flushed == 1
