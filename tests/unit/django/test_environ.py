"""What calls see of Django's request: all but the body that the view has not read."""

from __future__ import annotations

import io
import sys
import types

import pytest
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import RequestFactory

from wsgi_defer import DeferError, background, defer
from wsgi_defer._servers.uwsgi import HOOK
from wsgi_defer.django import DeferMiddleware

from ...helpers.client import get, make_environ

FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}


def look(seen, request):
    """A call."""
    try:
        seen.append((request.META["PATH_INFO"], request.body))
    except DeferError as error:
        seen.append((request.META["PATH_INFO"], str(error)))


@pytest.fixture
def in_uwsgi(monkeypatch):
    """What stands for uWSGI."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    monkeypatch.setattr(HOOK, "_placed", True)


def post(**more):
    body = io.BytesIO(b"a=1&more")
    environ = make_environ(
        REQUEST_METHOD="POST",
        CONTENT_LENGTH="3",
        **FORM,
        **{"wsgi.input": body},
        **more,
    )
    reply = get(get_wsgi_application(), environ=environ)
    environ.clear()
    assert background.join(10)
    return reply


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("server", [{}, {"uwsgi.version": b"2"}])
def test_the_body(view, request, reads, server):
    """What the view has read is there; the rest is one clear error. And uWSGI clears
    its environ, which the request has kept."""
    if server:
        request.getfixturevalue("in_uwsgi")
    seen = []

    @view
    def page(request):
        if reads:
            assert request.body == b"a=1"
        defer(look, seen, request)
        return HttpResponse("hello")

    if server:
        assert post(**server).body == b"hello"
    else:
        body = {"data": b"a=1", "content_type": FORM["CONTENT_TYPE"]}
        page_of = DeferMiddleware(page)
        page_of(RequestFactory().post("/", **body)).close()
    [(path, told)] = seen
    assert path == "/"
    assert told == b"a=1" if reads else "read it in the view" in told


def test_a_request_without_a_body(client, view):
    """It has none in the call, either."""
    seen = []

    @view
    def page(request):
        defer(look, seen, request)
        return HttpResponse("hello")

    client.get("/")
    assert seen == [("/", b"")]


def test_a_request_that_is_gone():
    """Its exchange has nothing to spend."""
    ran = []
    response = DeferMiddleware(
        lambda request: defer(ran.append, 1) and HttpResponse("hello")
    )(RequestFactory().get("/"))
    response.close()
    assert ran == [1]
