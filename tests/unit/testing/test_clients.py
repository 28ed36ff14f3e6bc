"""Every client: what it leaves unread or unclosed is captured all the same."""

from __future__ import annotations

import flask
import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.flask import Defer
from wsgi_defer.testing import DeferredCallsFailed, captured, eager, exchange, strict

from ...helpers.client import make_environ

ran = []


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def divide(a, b):
    """A call that may fail."""
    ran.append((a, b))
    return a / b


def flask_app(**options):
    app = flask.Flask("shop")
    Defer(app)
    app.testing = True

    @app.get("/<int:number>")
    def index(number):
        defer(divide, 1, number).named(flask.request.path)
        return "hello"

    return app


def flask_client():
    """It closes what has deferred calls."""
    client = flask_app().test_client()
    return lambda number: client.get(f"/{number}").status_code


def buffering_flask_client():
    """It has closed the response already."""
    client = flask_app().test_client()
    return lambda number: client.get(f"/{number}", buffered=True).status_code


def flask_client_without_defer():
    """Flask's own client, which closes nothing, on an app behind the middleware."""
    app = flask.Flask("shop")

    @app.get("/<int:number>")
    def index(number):
        defer(divide, 1, number)
        return "hello"

    app.wsgi_app = DeferMiddleware(app.wsgi_app)
    kept = []

    def send(number):
        kept.append(app.test_client().get(f"/{number}"))
        return kept[-1].status_code

    return send


@Request.application
def werkzeug_app(request):
    defer(divide, 1, int(request.path[1:]))
    return Response("hello")


def werkzeug_client():
    """It closes nothing, either."""
    client, kept = Client(DeferMiddleware(werkzeug_app)), []

    def send(number):
        kept.append(client.get(f"/{number}"))
        return kept[-1].status_code

    return send


def werkzeug_client_buffered():
    """It closes."""
    client = Client(DeferMiddleware(werkzeug_app))
    return lambda number: client.get(f"/{number}", buffered=True).status_code


def wsgi_call():
    """The app is called, and nobody looks at what it returns."""
    app, kept = DeferMiddleware(werkzeug_app), []

    def send(number):
        def start_response(status, headers, exc_info=None):
            statuses.append(int(status[:3]))

        statuses = []
        kept.append(app(make_environ(PATH_INFO=f"/{number}"), start_response))
        return statuses[0]

    return send


def by_exchange():
    """Ours."""
    app = DeferMiddleware(werkzeug_app)
    return lambda number: exchange(app, f"/{number}").status


def webtest_client():
    """WebTest reads and closes everything."""
    webtest = pytest.importorskip("webtest")
    app = webtest.TestApp(DeferMiddleware(werkzeug_app))
    return lambda number: app.get(f"/{number}").status_int


def django_app():
    """Django's WSGI handler, for one view, whatever else this process has set up."""
    django = pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.test import override_settings
    from django.urls import path

    def index(request, number):
        defer(divide, 1, number)
        return HttpResponse("hello")

    with override_settings(MIDDLEWARE=[]):
        handler = get_wsgi_application()
    route = override_settings(ROOT_URLCONF=(path("<int:number>", index),))
    return DeferMiddleware(route(handler))


def django_client():
    """Django's client, whose handler is the WSGI app; it closes nothing."""
    app, kept = django_app(), []
    import django.test
    from django.http import HttpResponse

    def handler(environ):
        def start_response(status, headers, exc_info=None):
            response.status_code = int(status[:3])
            for name, value in headers:
                response[name] = value

        response = HttpResponse()
        kept.append(app(environ, start_response))
        response.wsgi_request = None
        return response

    client = django.test.Client()
    client.handler = handler
    return lambda number: client.get(f"/{number}").status_code


CLIENTS = {
    flask_client: True,
    flask_client_without_defer: False,
    buffering_flask_client: True,
    werkzeug_client: False,
    werkzeug_client_buffered: True,
    wsgi_call: False,
    by_exchange: True,
    webtest_client: True,
    django_client: False,
}


@pytest.fixture(params=CLIENTS, ids=lambda client: client.__name__)
def client(request):
    return request.param


def test_captured(client):
    """The calls of all responses, in order; they never run."""
    send = client()
    with captured() as calls:
        for number in (1, 2, 0):
            assert send(number) == 200
        assert [call.args for call in calls] == [(1, 1), (1, 2), (1, 0)]
        assert send(3) == 200
        calls.assert_deferred(divide, times=4)
        assert ran == []
        with pytest.raises(ZeroDivisionError):
            calls.run()
        assert ran == [(1, 1), (1, 2), (1, 0), (1, 3)]
    del send
    assert len(ran) == 4


def test_strict(client):
    """It fails for a call that failed, or for a response that is left open."""
    closes = CLIENTS[client]
    send = client()
    with pytest.raises(DeferredCallsFailed) as failed, strict():
        send(1)
        send(0)
    whys = [failure.why for failure in failed.value.failures]
    if closes:
        assert whys == ["raised ZeroDivisionError: division by zero"]
        assert ran == [(1, 1), (1, 0)]
    else:
        assert whys == ["was lost: nobody closed its response"] * 2
        assert ran == []


def test_eager(client):
    """It runs in the view, whatever becomes of the response."""
    send = client()
    with eager():
        send(1)
        assert ran == [(1, 1)]
