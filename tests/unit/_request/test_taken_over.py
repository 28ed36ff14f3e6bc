"""An app that serves the connection itself, as that of a WebSocket, has not failed."""

from __future__ import annotations

import sys
import types

import pytest

from wsgi_defer import DeferMiddleware, background, defer

from ...helpers.client import make_environ

GUNICORN = {"gunicorn.socket": None, "wsgi.multithread": True}


def serve(ran, answer, **environ):
    """Run an app that ends like this, and defers; what is raised, is returned."""

    def app(environ, start_response):
        defer(ran.append, "call")
        defer(ran.append, "failed").on_failure()
        defer(int).when(lambda outcome: ran.append(outcome))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    try:
        body = DeferMiddleware(app)(make_environ(**environ), None)
    except BaseException as error:
        body = error
    getattr(body, "close", lambda: None)()
    assert background.join(10)
    return body


def test_stop_iteration_under_gunicorn(ran):
    """flask-sock ends its view so, and gunicorn closes the connection."""
    stop = StopIteration()
    assert serve(ran, stop, **GUNICORN, HTTP_UPGRADE="WebSocket") is stop
    assert (ran[0], ran[1].error, ran[1].delivered, ran[1].ok) == (
        "call", None, True, True,
    )  # fmt: skip


def test_stop_iteration_of_a_view(ran):
    """A bug of its own, as there is no WebSocket."""
    stop = StopIteration()
    assert serve(ran, stop, **GUNICORN) is stop
    assert (ran[0], ran[1].error, ran[1].ok) == ("failed", stop, False)


@pytest.mark.parametrize("error", [StopIteration(), RuntimeError()])
def test_another_server_or_another_error(ran, error):
    """That is a failure."""
    serve(ran, error, **({} if isinstance(error, StopIteration) else GUNICORN))
    assert (ran[0], ran[1].error, ran[1].delivered) == ("failed", error, False)


def test_an_object_of_gunicorns(monkeypatch, ran):
    """Its asynchronous workers take one for "already handled"."""
    asynchronous = types.ModuleType("gunicorn.workers.base_async")
    asynchronous.ALREADY_HANDLED = object()
    monkeypatch.setitem(sys.modules, asynchronous.__name__, asynchronous)
    handled = asynchronous.ALREADY_HANDLED
    assert serve(ran, handled, **GUNICORN) is handled
    assert (ran[0], ran[1].error) == ("call", None)
    serve(ran, object(), **GUNICORN)
    assert (ran[2], type(ran[3].error)) == ("failed", TypeError)


@pytest.mark.parametrize(("upgrade", "ok"), [("WebSocket", True), ("h2c", False)])
def test_a_body_without_a_start(ran, upgrade, ok):
    """What flask-sock gives gevent's own server."""
    serve(ran, [], HTTP_UPGRADE=upgrade)
    assert ran[0] == ("call" if ok else "failed")
    assert ran[1].ok is ok
