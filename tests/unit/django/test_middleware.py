"""Django's middleware: the calls of a request, with Django's client and a server."""

from __future__ import annotations

import gc
import io
import pickle
import threading

import pytest
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client, RequestFactory
from django.test.utils import override_settings

from wsgi_defer import (
    DeferMiddleware as WSGIMiddleware,
)
from wsgi_defer import (
    ScopeClosedError,
    TooManyCallsError,
    before_response,
    current_scope,
    defer,
    deferring,
)
from wsgi_defer.django import DeferMiddleware

from ...helpers.client import get, make_environ


def outcome_of(scope):
    outcome = scope.outcome
    return outcome.status, outcome.delivered


@pytest.mark.promise("L4")
@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_the_status_decides(client, view, ran, status):
    """It is the final one; and the calls have run when the client returns."""

    @view
    def page(request):
        defer(ran.append, "call")
        defer(ran.append, "always").always()
        defer(ran.append, "failure").on_failure()
        return HttpResponse("hello", status=status)

    response = client.get("/")
    assert response.status_code == status
    assert response.content == b"hello"
    assert type(response).__name__ == "HttpResponse"
    expected = ["call", "always"] if status < 400 else ["always", "failure"]
    assert ran == expected


def test_a_view_that_raises(client, view, ran):
    """Django makes it a 500."""

    @view
    def page(request):
        defer(ran.append, "call")
        defer(ran.append, "failure").on_failure()
        raise ValueError("no")

    assert client.get("/").status_code == 500
    assert ran == ["failure"]


def test_an_error_that_goes_up(view, ran):
    """With DEBUG_PROPAGATE_EXCEPTIONS, the server gets it, and Django's client."""

    @view
    def page(request):
        defer(ran.append, threading.get_ident()).on_failure()
        raise ValueError("no")

    with (
        override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True),
        pytest.raises(ValueError, match="no"),
    ):
        Client().get("/")
    assert ran == [threading.get_ident()]


def test_an_async_view(client, view, ran):
    """Its scope is that of the request, and so are its calls."""

    async def finish(what):
        ran.append(what)

    @view
    async def page(request):
        defer(finish, "coroutine")
        defer(ran.append, "function")
        return HttpResponse("hello")

    assert client.get("/async").content == b"hello"
    assert ran == ["coroutine", "function"]


def test_signals(client, view, ran):
    """Calls run after request_finished, whose receivers may defer, too."""

    def finished(**kwargs):
        ran.append("finished")
        defer(ran.append, "deferred at the end")

    request_finished.connect(finished)
    try:
        view(lambda request: defer(ran.append, "call") and HttpResponse("hello"))
        client.get("/")
        view(lambda request: HttpResponse("nothing deferred in here"))
        client.get("/")
    finally:
        request_finished.disconnect(finished)
    again = ["finished", "deferred at the end"]
    assert ran == ["finished", "call", "deferred at the end", *again]


def test_streaming(client, view, ran):
    """Its code may defer, and it ends when the test has read it."""

    @view
    def page(request):
        def items():
            yield b"one"
            defer(ran.append, current_scope())
            yield b"two"

        return StreamingHttpResponse(items())

    response = client.get("/")
    assert ran == []
    assert b"".join(response.streaming_content) == b"onetwo"
    [scope] = ran
    assert outcome_of(scope) == (200, True)


def test_a_file(client, view, ran):
    """Without a server's file wrapper, it is read as any stream."""

    @view
    def page(request):
        defer(ran.append, current_scope())
        return FileResponse(io.BytesIO(b"x" * 10_000))

    assert len(b"".join(client.get("/").streaming_content)) == 10_000
    assert outcome_of(ran[0]) == (200, True)


def test_held_calls(client, view, ran):
    """They run when the status is final, and a failure of one makes it a 503."""

    @view
    def page(request):
        before_response(ran.append, "held")
        defer(ran.append, "call")
        if "fail" in request.GET:
            before_response(int, "x")
        return HttpResponse("hello", status=int(request.GET["status"]))

    assert client.get("/?status=200").content == b"hello"
    assert ran == ["held", "call"]
    assert client.get("/?status=404").content == b"hello"
    assert ran == ["held", "call"]
    response = client.get("/?status=200&fail=")
    assert (response.status_code, response.content) == (503, b"Service Unavailable\n")
    assert response["Content-Length"] == "20"
    assert ran == ["held", "call", "held"]


def test_a_refused_response_is_closed(client, view):
    """The file that it would have sent is."""
    file = io.BytesIO(b"hello")

    @view
    def page(request):
        before_response(int, "x")
        return FileResponse(file)

    assert client.get("/").status_code == 503
    assert file.closed


def test_the_same_response_again(client, view, ran):
    """An app may keep one and return it for each request."""
    kept = HttpResponse("hello")

    @view
    def page(request):
        defer(ran.append, "call")
        return kept

    for count in (1, 2, 3):
        assert client.get("/").content == b"hello"
        assert len(ran) == count


def test_a_cache_outside(client, view):
    """It pickles the response, which is then what the app made."""
    view(lambda request: JsonResponse({"a": 1}))
    response = client.get("/")
    for other in (response, client.get("/")):
        del other.wsgi_request, other.client, other.request, other.json
        other.resolver_match = other.context = other.templates = None
    copy = pickle.loads(pickle.dumps(response))
    assert type(copy) is JsonResponse
    assert copy.content == b'{"a": 1}'


def test_the_scope_is_over(client, view):
    """It is in the environ, and accepts nothing more."""
    scopes = []

    @view
    def page(request):
        scopes.append(request.environ["wsgi_defer.scope"])
        assert scopes[-1] is current_scope()
        return HttpResponse("hello")

    client.get("/")
    assert scopes[0].closed
    assert current_scope() is None


def test_a_block_around_it(client, view, ran):
    """A scope of the test's own does not take the calls of the request."""
    view(lambda request: defer(ran.append, "request") and HttpResponse("hello"))
    with deferring():
        defer(ran.append, "block")
        client.get("/")
        assert ran == ["request"]
    assert ran == ["request", "block"]


def test_a_view_without_the_client(rf, ran):
    """A test that calls a view itself puts the middleware, or a block, around it."""

    def page(request):
        defer(ran.append, "call")
        return HttpResponse("hello")

    DeferMiddleware(page)(rf.get("/")).close()
    assert ran == ["call"]
    with deferring():
        page(rf.get("/"))
    assert ran == ["call"] * 2


@pytest.fixture
def rf():
    return RequestFactory()


@override_settings(WSGI_DEFER={"max_calls": 2})
def test_options(view, ran):
    """They are those of the WSGI middleware."""

    @view
    def page(request):
        defer(ran.append, 1)
        defer(ran.append, 2)
        with pytest.raises(TooManyCallsError):
            defer(ran.append, 3)
        return HttpResponse("hello")

    Client().get("/")
    assert ran == [1, 2]


# With a server


def test_a_server(view, ran):
    """It finds all as Django leaves it; the calls run when it closes the response."""
    app = get_wsgi_application()

    @view
    def page(request):
        defer(ran.append, current_scope())
        return HttpResponse("hello")

    reply = get(app)
    assert (reply.status, reply.body, reply.starts) == ("200 OK", b"hello", 1)
    assert outcome_of(ran[0]) == (200, True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_leaves(view, ran, streaming):
    """The calls run all the same, and can know."""
    app = get_wsgi_application()

    @view
    def page(request):
        defer(ran.append, current_scope())
        kind = StreamingHttpResponse if streaming else HttpResponse
        return kind([b"one", b"two"])

    get(app, stop_after=1)
    assert outcome_of(ran[0]) == (200, False)


def test_an_asynchronous_stream(view, ran):
    """Django reads it to its end before the first item, and it may defer, too."""
    app = get_wsgi_application()

    @view
    def page(request):
        async def items():
            yield b"one"
            defer(ran.append, current_scope())
            yield b"two"

        return StreamingHttpResponse(items())

    with pytest.warns(Warning, match="must consume asynchronous iterators"):
        assert get(app).body == b"onetwo"
    assert outcome_of(ran[0]) == (200, True)


def test_a_file_that_the_server_sends(view, ran):
    """It gets the file itself in its own wrapper."""

    class Wrapper:
        def __init__(self, file, size):
            self.file = file

        def __iter__(self):
            return iter([self.file.read()])

        def close(self):
            self.file.close()

    app = get_wsgi_application()
    file = io.BytesIO(b"hello")

    @view
    def page(request):
        defer(ran.append, current_scope())
        return FileResponse(file)

    assert get(app, environ=make_environ(**{"wsgi.file_wrapper": Wrapper})).body
    assert outcome_of(ran[0]) == (200, True)
    assert file.closed


def test_a_response_that_is_dropped(view, ran):
    """A server that does not close it leaves the calls to the background thread."""
    app = get_wsgi_application()
    view(lambda request: defer(ran.append, "call") and HttpResponse("hello"))
    body = app(make_environ(), lambda status, headers: None)
    del body
    gc.collect()
    from wsgi_defer import background

    assert background.join(10)
    assert ran == ["call"]


def test_wrapped_in_wsgi_py_too(view, ran):
    """The outer middleware does the work, also for request_started."""

    def started(**kwargs):
        defer(ran.append, "started")

    app = WSGIMiddleware(get_wsgi_application())
    view(lambda request: defer(ran.append, "call") and HttpResponse("hello"))
    request_started.connect(started)
    try:
        get(app)
    finally:
        request_started.disconnect(started)
    assert ran == ["started", "call"]


def test_too_late(view, ran):
    """A thread that outlives the request gets an error, as everywhere."""
    scopes = []
    view(lambda request: scopes.append(current_scope()) or HttpResponse("hello"))
    Client().get("/")
    from wsgi_defer._calls.scope import enter, leave

    token = enter(scopes[0])
    try:
        with pytest.raises(ScopeClosedError):
            defer(ran.append, 1)
    finally:
        leave(token)
