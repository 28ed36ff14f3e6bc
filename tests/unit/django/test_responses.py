"""Responses whose class is one of the app's own: they stay what they are."""

from __future__ import annotations

import pickle

import pytest
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse

from wsgi_defer import current_scope, defer
from wsgi_defer.django._exchange import noticing

from ...helpers.client import get, make_environ


@pytest.fixture
def app():
    return get_wsgi_application()


def test_another_one_of_its_class(client, view, ran):
    """An app makes it from the response it has; it has no request to end."""
    view(lambda request: HttpResponse("hello"))
    other = type(client.get("/"))("other")
    assert list(other) == [b"other"]
    assert pickle.loads(pickle.dumps(other)).content == b"other"
    other.close()
    assert other.closed
    other.__del__()


def test_another_one_that_is_returned(client, view, ran):
    """It ends the request that it is the response of."""
    view(lambda request: HttpResponse("hello"))
    kind = type(client.get("/"))
    view(lambda request: defer(ran.append, "call") and kind("other"))
    assert client.get("/").content == b"other"
    assert ran == ["call"]


class Strange(HttpResponse):
    """A class that refuses the one below it."""

    def __init_subclass__(cls, *, needed, **more):
        super().__init_subclass__(**more)


class StrangeStream(StreamingHttpResponse):
    def __init_subclass__(cls, *, needed, **more):
        super().__init_subclass__(**more)


@pytest.mark.parametrize("kind", [Strange, StrangeStream])
def test_a_class_that_refuses_others_below_it(app, view, ran, kind):
    """The calls run when it is closed, also if an app keeps the response."""
    kept = Strange("hello")

    def call(scope):
        ran.append((scope.outcome.status, scope.outcome.delivered, kept.closed))

    @view
    def page(request):
        defer(call, current_scope())
        return kept if kind is Strange else kind(iter([b"hel", b"lo"]))

    for count in (1, 2):
        response = get(app, environ=make_environ())
        assert (response.status, response.body) == ("200 OK", b"hello")
        assert ran == [(200, True, kind is Strange)] * count


class Own(HttpResponse):
    """A response that says itself how it is pickled."""

    def __reduce__(self):
        return type(self), (self.content,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_class_with_a_pickle_of_its_own(protocol):
    """It is made as its class says."""
    for kind in (Own, HttpResponse):
        copy = pickle.loads(pickle.dumps(noticing(kind)("hello"), protocol))
        assert type(copy) is kind
        assert copy.content == b"hello"
