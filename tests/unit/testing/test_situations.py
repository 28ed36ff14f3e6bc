"""The same calls, order and skips, in production and in each way to test."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import flask
import pytest
from werkzeug.test import Client

from wsgi_defer import DeferMiddleware, Observer, background
from wsgi_defer.flask import Defer
from wsgi_defer.testing import DeferredCallsFailed, captured, exchange, strict

from ...helpers.client import get
from .situations import SITUATIONS, app_of


class Skips(Observer):
    """Why deferred calls are skipped, in production."""

    def __init__(self):
        self.why = []

    def skipped(self, call, scope, why):
        if call.kind == "deferred":
            self.why.append(why)


@pytest.fixture(params=SITUATIONS)
def situation(request):
    return SITUATIONS[request.param]


@pytest.fixture
def skips():
    return Skips()


def send_to_wsgi(situation, ran, skips):
    app = DeferMiddleware(app_of(situation, ran), observers=[skips])
    with suppress(LookupError):
        assert get(app).status[:3] == f"{situation.status}"


def send_to_wsgi_unclosed(situation, ran, skips):
    app = DeferMiddleware(app_of(situation, ran), observers=[skips])
    with suppress(LookupError):
        Client(app).get("/")


def send_to_flask(situation, ran, skips):
    app = flask.Flask("shop")
    Defer(app, observers=[skips])

    @app.get("/")
    def index():
        situation.view(ran)
        if situation.raises:
            raise LookupError
        return "hello", situation.status if situation.status == 404 else 200

    # Here it is Flask that raises, or answers.
    app.testing = situation.raises
    with suppress(LookupError):
        assert app.test_client().get("/").status_code == situation.status


SENDERS = [send_to_wsgi, send_to_flask]


@pytest.mark.parametrize("send", SENDERS)
def test_in_production(situation, send, ran, skips):
    """What the other ways are compared with."""
    send(situation, ran, skips)
    assert background.join(timeout=10)
    assert (ran, skips.why) == (situation.ran, situation.why)


@pytest.mark.promise("L11", "X2")
@pytest.mark.parametrize("send", [*SENDERS, send_to_wsgi_unclosed])
def test_captured(situation, send, ran, skips):
    """Nothing of it runs before run(), and then as in production."""
    early = [each for each in situation.ran if each in ("view", "before", "early")]
    with captured() as calls:
        send(situation, ran, skips)
        assert ran == early
        would_run = [call.text for call in calls]
        calls.run()
        assert (ran, skips.why) == (situation.ran, situation.why)
        assert [each.why for each in calls.skipped] == situation.why
        assert [call.text for call in calls][: len(would_run)] == would_run or (
            "replaced" in str(would_run)
        )
        assert len(calls) == len(situation.ran) - len(early)
        calls.run()  # each runs once
    assert ran == situation.ran


@pytest.mark.parametrize("send", SENDERS)
def test_strict(situation, send, ran, skips):
    """And it fails where the log tells of a failure."""
    fails = situation is SITUATIONS["held that fails"]
    with pytest.raises(DeferredCallsFailed) if fails else nullcontext(), strict():
        send(situation, ran, skips)
    assert (ran, skips.why) == (situation.ran, situation.why)


def test_exchange(situation, ran, skips):
    """It tells what became of each call."""
    app = DeferMiddleware(app_of(situation, ran), observers=[skips])
    reply = exchange(app)
    assert (ran, skips.why) == (situation.ran, situation.why)
    assert reply.status == situation.status
    assert reply.outcome.status == (None if situation.raises else situation.status)
    whys = [call.why for call in reply.calls if call.became == "skipped"]
    assert sorted(whys) == sorted(situation.why)
