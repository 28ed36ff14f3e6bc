"""strict(): no failure goes unnoticed."""

from __future__ import annotations

import gc
import threading
import time
from wsgiref.simple_server import make_server

import pytest
import requests
from werkzeug.test import Client

from wsgi_defer import DeferMiddleware, before_response, defer, deferring
from wsgi_defer.testing import (
    DeferredCallsFailed,
    _block,
    captured,
    eager,
    strict,
)

from ...helpers.client import get, make_environ, text_app


def fail(message="it"):
    """A call that fails."""
    raise LookupError(message)


def app_that(view, **more):
    return DeferMiddleware(text_app(view), **more)


def whys(failed):
    """Of the failures that were raised."""
    return [why for _, _, why, _ in failed.value.failures]


def test_nothing_failed(ran):
    """Calls run as in production."""
    with strict():
        get(app_that(lambda: defer(ran.append, 1)))
        assert ran == [1]


def test_failures(ran):
    """All of them, the first as the cause."""

    def view():
        defer(fail, "one")
        defer(ran.append, 1)
        defer(fail, "two").named("second")

    with pytest.raises(DeferredCallsFailed) as failed, strict():
        get(app_that(view))
        get(app_that(lambda: None))
    assert ran == [1]
    assert whys(failed) == ["raised LookupError: one", "raised LookupError: two"]
    assert str(failed.value.__cause__) == "one"
    first, second = failed.value.failures
    assert first.call.endswith(".fail")
    assert second.call == "second"
    assert first.origin.startswith(__file__)
    assert first.error.__traceback__.tb_frame.f_code is fail.__code__
    text = str(failed.value)
    assert text.startswith("2 deferred calls failed in strict():\n")
    assert f"second raised LookupError: two; from {second.origin}" in text
    assert "Close each response" not in text
    assert isinstance(failed.value, AssertionError)


def test_a_failure_of_a_builtin():
    """It has no line of the app to show."""
    with pytest.raises(DeferredCallsFailed) as failed, strict():
        get(app_that(lambda: defer(int, "x")))
    assert failed.value.__cause__.__traceback__ is None


def test_the_block_raises():
    """That goes up."""
    with pytest.raises(ZeroDivisionError), strict():
        get(app_that(lambda: defer(fail)))
        1 / 0  # noqa: B018


def test_chains(ran):
    """An error that is dealt with is not a failure, and one of a chain is one."""
    with strict(), deferring():
        defer(fail).catch(ran.append)
        with pytest.raises(LookupError):
            defer(fail).result()
    with pytest.raises(DeferredCallsFailed) as failed, strict(), deferring():
        call = defer(fail, "chain")
        call.then(ran.append).then(ran.append)
        call.then(ran.append)
        defer(fail, "skipped").then(ran.append).on_failure()

        def again(error):
            raise error

        defer(fail, "again").catch(again)
    assert whys(failed) == [f"raised LookupError: {each}"
                            for each in ("chain", "skipped", "again")]  # fmt: skip
    assert failed.value.failures[0].call.count(" -> ") in (1, 2)


def test_held_calls():
    """One that fails is a failure, too: its client got a 503."""
    with pytest.raises(DeferredCallsFailed) as failed, strict():
        get(app_that(lambda: before_response(fail)))
    assert whys(failed) == ["raised LookupError: it"]


def test_lost():
    """An order to stop loses calls."""

    def stop():
        raise KeyboardInterrupt

    def view():
        defer(stop).named("stop")
        defer(fail).named("rest")

    app = app_that(view)
    failing = pytest.raises(DeferredCallsFailed)
    with failing as failed, strict(), pytest.raises(KeyboardInterrupt):
        get(app)
    assert [failure.call for failure in failed.value.failures] == ["stop", "rest"]
    assert whys(failed)[0].startswith("was lost: ")
    assert failed.value.__cause__ is None
    assert str(failed.value).count("\n") == 2


@pytest.mark.promise("S12")
def test_the_background_thread(ran, released):
    """What is on it is waited for."""

    def slow():
        released.wait(10)
        fail()

    with pytest.raises(DeferredCallsFailed), strict():
        get(app_that(lambda: defer(slow), inline=False))
        threading.Timer(0.05, released.set).start()


def test_what_never_ends(monkeypatch, released):
    """It is told of when the time is over."""
    monkeypatch.setattr(_block, "WAIT", 0.05)
    with pytest.raises(DeferredCallsFailed) as failed, strict():
        get(app_that(lambda: defer(released.wait, 10), inline=False))
    assert "had not ended" in whys(failed)[0]
    released.set()


@pytest.mark.parametrize("body", ["list", "iterator", "generator"])
def test_a_response_that_nobody_closes(ran, body):
    """Its calls are lost, and run in no other test."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1).named("call")
        return [b"x"] if body == "list" else iter([b"x"])

    def generator(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1).named("call")
        yield b"x"

    with pytest.raises(DeferredCallsFailed) as failed, strict():
        app = DeferMiddleware(generator if body == "generator" else app)
        response = Client(app).get("/")
    assert whys(failed) == ["was lost: nobody closed its response"]
    assert "Close each response, as a server does" in str(failed.value)
    response.close()
    del response
    gc.collect()
    assert ran == []


def test_a_response_that_is_dropped(ran):
    """The calls run, and the test fails nevertheless."""
    with pytest.raises(DeferredCallsFailed) as failed, strict():
        app_that(lambda: defer(ran.append, 1))(make_environ(), lambda *head: None)
        gc.collect()
    assert whys(failed) == ["nobody closed its response"]
    assert ran == [1]


def test_a_response_that_never_starts():
    """A stream of which nobody takes a step."""

    def app(environ, start_response):
        yield b"x"

    def wrapped(environ, start_response):
        defer(fail)
        return app(environ, start_response)

    with pytest.raises(DeferredCallsFailed) as failed, strict():
        body = DeferMiddleware(wrapped)(make_environ(), lambda *head: None)
    assert whys(failed) == ["was lost: nobody closed its response"]
    body.close()


def test_inside_a_view(ran):
    """Its own response is no concern of the block."""

    def view():
        with strict():
            defer(ran.append, 1)

    get(app_that(view))
    assert ran == [1]
    with deferring():
        with strict():
            defer(ran.append, 2)
        assert ran == [1]
    assert ran == [1, 2]


def test_closed_responses(ran):
    """In any of the ways to close one."""
    client = Client(app_that(lambda: defer(ran.append, 1)))
    with strict():
        with client.get("/"):
            pass
        client.get("/").close()
        client.get("/", buffered=True)
    assert ran == [1, 1, 1]


def test_a_server_in_another_thread(ran):
    """Its calls may still run when the client has its answer."""

    def slow():
        time.sleep(0.1)
        fail()

    server = make_server("127.0.0.1", 0, app_that(lambda: defer(slow), inline=True))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        with pytest.raises(DeferredCallsFailed) as failed, strict():
            requests.get(f"http://127.0.0.1:{server.server_port}/", timeout=10)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert whys(failed) == ["raised LookupError: it"]


def test_a_scope_in_another_thread(ran, released):
    """It is no response, and has its own end."""

    def work():
        with deferring():
            defer(ran.append, 1)
            began.set()
            released.wait(10)

    thread, began = threading.Thread(target=work), threading.Event()
    with strict():
        thread.start()
        assert began.wait(10)
    assert ran == []  # nobody has waited for it
    released.set()
    thread.join()
    assert ran == [1]


def test_check():
    """It raises what there is so far, once."""
    with strict() as block:
        get(app_that(lambda: defer(fail)))
        with pytest.raises(DeferredCallsFailed):
            block.check()
        block.check()


def test_nested_blocks(ran):
    """What an inner block has is none of the outer one's."""
    with strict():
        with pytest.raises(DeferredCallsFailed), strict():
            get(app_that(lambda: defer(fail)))
        with captured() as calls:
            response = Client(app_that(lambda: defer(fail))).get("/")
            assert len(calls) == 1
            with pytest.raises(LookupError):
                calls.run()
        with eager(), pytest.raises(LookupError):
            get(app_that(lambda: defer(fail)))
    response.close()
