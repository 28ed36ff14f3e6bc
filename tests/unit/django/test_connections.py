"""Database connections around a call, without a server."""

from __future__ import annotations

import threading

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import BaseCommand, call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client
from django.test.utils import override_settings

from wsgi_defer import DeferMiddleware, background, before_response, defer, deferring
from wsgi_defer.django._commands import run_in_scope
from wsgi_defer.django._connections import tended_connections
from wsgi_defer.testing import eager

from ...helpers.client import get, make_environ

# Itself, not the proxy that Django calls ``connection``.
connection = connections["default"]


def users():
    return User.objects.count()


def test_a_call_in_a_transaction(client, view, ran):
    """A ``TestCase`` has one around the client: the call is inside of it."""

    @view
    def page(request):
        defer(User.objects.create, username="ada")
        return HttpResponse("hello")

    with transaction.atomic():
        client.get("/")
        assert users() == 1
        transaction.set_rollback(True)
    assert users() == 0


def test_a_connection_that_is_lost(client, view, ran, monkeypatch):
    """It is tried before its first use in a call, and replaced."""
    users()
    monkeypatch.setattr(connection, "close_at", None)  # as CONN_MAX_AGE says
    closed = []
    monkeypatch.setattr(connection, "is_usable", lambda: False)
    monkeypatch.setattr(connection, "close", lambda: closed.append(True))
    with tended_connections():
        assert closed == []
        users()
        assert closed == [True]
    with tended_connections():
        assert closed == [True]
    users()
    assert closed == [True]


@pytest.mark.parametrize("fails", [False, True])
def test_connections_of_the_settings_around(view, ran, fails):
    """What ``around`` of the settings opens is inside of them, whatever it raises."""

    class Around:
        def __enter__(self):
            ran.append(connection.health_check_enabled)
            if fails:
                raise ValueError("no")

        def __exit__(self, *error):
            ran.append("closed")

    @view
    def page(request):
        users()
        defer(ran.append, "call")
        return HttpResponse("hello")

    with override_settings(WSGI_DEFER={"around": Around}):
        Client().get("/")
    assert ran == ([True] if fails else [True, "call", "closed"])
    assert not connection.health_check_enabled


def test_a_coroutine(client, view, ran):
    """The thread of its asynchronous methods ends with it."""

    async def count():
        ran.append(await User.objects.acount())
        # Django leaves a database in memory open.
        await sync_to_async(lambda: connections["default"].connection.close())()

    @view
    def page(request):
        defer(count)
        return HttpResponse("hello")

    client.get("/")  # the thread of the loop stays
    before = threading.active_count()
    client.get("/")
    assert ran == [0, 0]
    assert threading.active_count() == before


def test_live_servers(view, ran):
    """Their threads share one connection, which the background thread has not."""
    app = get_wsgi_application()
    environ = {"SERVER_SOFTWARE": "WSGIServer/0.2"}
    view(lambda request: defer(where) and HttpResponse("hello"))

    def where():
        ran.append(threading.current_thread().name)

    get(app, environ=make_environ(**environ))
    assert background.join(10)
    connection.inc_thread_sharing()
    try:
        get(app, environ=make_environ(**environ))
    finally:
        connection.dec_thread_sharing()
    assert ran == ["wsgi_defer", "MainThread"]


@pytest.fixture
def closed(monkeypatch):
    """How often the connection was closed, in place of that; it is to be."""
    users()
    monkeypatch.setattr(connection, "close_at", 0)  # CONN_MAX_AGE, long ago
    times = []
    monkeypatch.setattr(connection, "close", lambda: times.append(True))
    return times


@pytest.mark.parametrize("how", ["result", "eager", "held", "block", "stream"])
def test_code_that_uses_its_connection(view, closed, how):
    """A call that runs in the middle of it leaves the connection as it is."""
    seen = []

    @view
    def page(request):
        def items():
            yield b"one"
            defer(users).result()
            seen.append(list(closed))
            yield b"two"

        if how == "stream":
            return StreamingHttpResponse(items())
        if how == "result":
            defer(users).result()
        elif how == "eager":
            with eager():
                defer(users)
        elif how == "held":
            before_response(lambda: None)
            before_response(lambda: seen.append(list(closed)))
        else:
            with deferring(around=tended_connections):
                defer(users)
        seen.append(list(closed))
        return HttpResponse("hello")

    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        assert get(get_wsgi_application(), environ=make_environ()).status[:3] == "200"
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)
    assert seen
    assert not any(seen)


def test_a_call_inside_of_a_call(view, client, closed):
    """The outer one uses the connections, and they are tended when it ends."""
    seen = []

    def outer():
        before = len(closed)
        defer(users).result()
        seen.append(len(closed) - before)

    view(lambda request: defer(outer) and HttpResponse("hello"))
    client.get("/")
    assert seen == [0]
    assert closed


def test_a_command_that_uses_its_connection(closed):
    """As a view; the calls after it have connections as after a request."""
    seen = []

    class Command(BaseCommand):
        def handle(self, **options):
            defer(users).result()
            seen.append(list(closed))
            defer(users)

    command = Command()
    run_in_scope(command)
    call_command(command, skip_checks=True)
    assert seen == [[]]
    assert closed


def test_a_view_wrapped_in_wsgi_py_too(view, closed):
    """The middleware there has the scope."""
    seen = []

    @view
    def page(request):
        before = len(closed)
        defer(users).result()
        seen.append(len(closed) - before)
        return HttpResponse("hello")

    get(DeferMiddleware(get_wsgi_application()), environ=make_environ())
    assert seen == [0]
