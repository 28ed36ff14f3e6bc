"""captured(): the list, and when a response has ended for it."""

from __future__ import annotations

import gc
import os
import threading
import time
from wsgiref.simple_server import make_server

import pytest
import requests
from werkzeug.test import Client

from wsgi_defer import (
    DeferMiddleware,
    background,
    before_response,
    defer,
    deferring,
    pool,
)
from wsgi_defer._calls import switch
from wsgi_defer.pools import ThreadPool
from wsgi_defer.testing import CallRecord, captured, eager, exchange, strict

from ...helpers.client import get, make_environ, text_app
from ...helpers.waiting import until


def send(to, subject=""):
    """A call that no test runs."""
    raise AssertionError


def fail(message):
    """A call that fails."""
    raise LookupError(message)


def app_that(view, **more):
    return DeferMiddleware(text_app(view), **more)


def test_what_a_call_is():
    """Its function, arguments, name and outcome."""

    def view():
        defer(send, "ada", subject="hi").named("mail")

    with captured() as calls:
        get(app_that(view))
        [call] = calls
    assert (call.fn, call.args, call.kwargs) == (send, ("ada",), {"subject": "hi"})
    assert (call.name, call.outcome.status, call.became) == ("mail", 200, "captured")
    assert call.outcome.delivered
    assert call.origin.startswith(__file__)
    assert call.text.endswith("send('ada', subject='hi') named 'mail'")
    assert [call] == list(calls)
    assert list(calls[:1]) == [call]
    assert "send('ada'" in repr(calls)
    assert repr(call).endswith("captured>")


def test_deferring(ran):
    """The end of the block is the end of the response."""
    with captured() as calls:
        with deferring():
            defer(ran.append, 1)
            assert len(calls) == 0
        assert len(calls) == 1
        assert calls[0].outcome.status is None
    assert ran == []


def test_a_scope_that_is_older_than_the_block(ran):
    """It is captured if it ends inside, as it does in production if not."""
    outer, inner = deferring(), deferring()
    outer.__enter__()
    defer(ran.append, "outer")
    inner.__enter__()
    defer(ran.append, "inner")
    with captured() as calls:
        inner.__exit__(None, None, None)
        assert [call.args for call in calls] == [("inner",)]
    outer.__exit__(None, None, None)
    assert ran == ["outer"]


def test_its_calls_never_run(ran):
    """They are cancelled when the block ends, however it ends."""
    handles = []

    def view():
        handles.append(defer(ran.append, 1))

    with pytest.raises(ZeroDivisionError), captured():
        response = Client(app_that(view)).get("/")
        get(app_that(view))
        1 / 0  # noqa: B018
    response.close()
    assert [handle.cancelled() for handle in handles] == [True, True]
    assert ran == []


def test_run_after_the_block():
    """It says what to do."""
    with captured() as calls:
        get(app_that(lambda: defer(send, 1)))
    assert len(calls) == 1
    with pytest.raises(RuntimeError, match="inside the block"):
        calls.run()


def test_run_raises_the_first_error(ran, caplog):
    """After all have run, and the log has them, too."""

    def view():
        defer(fail, "first")
        defer(fail, "second")
        defer(ran.append, 1)

    with captured() as calls:
        get(app_that(view))
        with pytest.raises(LookupError, match="first"):
            calls.run()
        assert ran == [1]
        assert len(caplog.records) == 2
        calls.run()


def test_a_predicate_that_raises(ran):
    """The call does not run, and run() raises that."""

    def view():
        defer(ran.append, 1).when(lambda outcome: fail("when"))

    with captured() as calls:
        get(app_that(view))
        assert len(calls) == 0
        with pytest.raises(LookupError, match="when"):
            calls.run()


def test_an_error_that_others_deal_with(ran):
    """It is nobody's any more."""
    with captured() as calls:
        get(app_that(lambda: defer(fail, "x").catch(ran.append)))
        calls.run()
    assert len(ran) == 1


def test_inside_of_run(ran):
    """A scope that a call opens and closes runs its calls, as in production."""

    def call():
        with deferring():
            defer(ran.append, 1)
        ran.append(2)

    with captured() as calls:
        get(app_that(lambda: defer(call)))
        calls.run()
    assert ran == [1, 2]


def streaming(ran, items=3):
    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "view").named("same")
        for number in range(items):
            yield b"x"
            defer(ran.append, number).when(lambda outcome: outcome.delivered)
        defer(ran.append, "last").named("same")

    return DeferMiddleware(app)


def texts(calls):
    return [call.args[0] for call in calls]


def test_a_stream(ran):
    """It is looked at as often as the test likes."""
    with captured() as calls:
        body = streaming(ran)(make_environ(), lambda *head: None)
        assert texts(calls) == []  # the response has not started
        next(body)
        assert texts(calls) == ["view"]
        next(body)
        assert texts(calls) == ["view", 0]
        assert list(body) == [b"x"]
        assert texts(calls) == [0, 1, 2, "last"]
        assert texts(calls.skipped) == ["view"]
        body.close()
        assert texts(calls) == [0, 1, 2, "last"]
    assert ran == []


def test_a_stream_whose_client_leaves(ran):
    """The outcome is the one at the end."""
    with captured() as calls:
        body = streaming(ran)(make_environ(), lambda *head: None)
        next(body)
        next(body)
        assert texts(calls) == ["view", 0]
        body.close()
        assert texts(calls) == ["view"]
        assert not calls[0].outcome.delivered
        assert texts(calls.skipped) == [0]


def test_a_stream_that_is_read_after_run(ran):
    """It may defer more, and more than once."""
    with captured() as calls:
        body = streaming(ran)(make_environ(), lambda *head: None)
        next(body)
        calls.run()
        assert ran == ["view"]
        list(body)
        calls.run()
        assert ran == ["view", 0, 1, 2, "last"]
        body.close()
    assert texts(calls) == ran


def test_a_stream_that_is_read_after_the_block(ran):
    """What it defers from then on is production's."""
    with captured() as calls:
        body = streaming(ran)(make_environ(), lambda *head: None)
        next(body)
    assert texts(calls) == ["view"]
    list(body)
    body.close()
    assert ran == [0, 1, 2, "last"]


@pytest.mark.parametrize("close_first", [True, False])
@pytest.mark.parametrize("close_second", [True, False])
def test_responses_that_nobody_closes(close_first, close_second):
    """The calls are in the order of the responses, closed or not."""
    client = Client(streaming([], items=0))
    with captured() as calls:
        first = Client(app_that(lambda: defer(send, 1))).get("/")
        if close_first:
            first.close()
        second = client.get("/")
        if close_second:
            second.close()
        Client(app_that(lambda: defer(send, 3))).get("/")  # dropped at once
        fourth = Client(app_that(lambda: defer(send, 4))).get("/")
        assert texts(calls) == [1, "last", 3, 4]
        fourth.close()
        assert texts(calls) == [1, "last", 3, 4]
    del first, second, fourth
    gc.collect()


def test_an_app_that_raises(ran):
    """Its calls wait for nothing, and no other thread gets them."""

    def view():
        defer(ran.append, 1).always()
        raise LookupError

    with captured() as calls:
        with pytest.raises(LookupError):
            get(app_that(view))
        [call] = calls
        assert isinstance(call.outcome.error, LookupError)
    assert background.join(timeout=10)
    assert ran == []


def test_inline_false(ran):
    """Nothing is handed to the background thread."""
    with captured() as calls:
        get(app_that(lambda: defer(ran.append, 1), inline=False))
        assert background.join(0)
        assert len(calls) == 1
        calls.run()
        assert ran == [1]


def test_what_was_handed_over_before(ran, released):
    """It ends before the block begins, so that it is not in its list."""
    get(app_that(lambda: defer(released.wait, 10), inline=False))
    threading.Timer(0.05, released.set).start()
    with captured() as calls:
        assert background.join(0)
        assert len(calls) == 0


def test_a_server_in_another_thread(ran):
    """The switch is for all threads."""
    server = make_server("127.0.0.1", 0, app_that(lambda: defer(ran.append, 1)))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        with captured() as calls:
            address = f"http://127.0.0.1:{server.server_port}/"
            for number in range(1, 4):
                assert requests.get(address, timeout=10).text == "hello"
                until(lambda number=number: len(calls) == number)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert ran == []


def test_tasks_of_a_pool(ran, released):
    """They end with the request, as ever."""

    def view():
        defer(ran.append, 1)
        tasks.append(pool("p").submit(released.wait, 10))

    tasks = []
    with captured() as calls:
        get(app_that(view, pools={"p": ThreadPool(1)}))
        assert len(calls) == 1
        assert tasks[0].done()


def test_a_limit_on_those_that_wait():
    """The captured ones do not count for ever."""
    app = app_that(lambda: defer(send, 1), max_waiting=1)
    for _ in range(3):
        with captured() as calls:
            get(app)
            assert len(calls) == 1


@pytest.mark.promise("L25")
def test_assert_deferred():
    """With arguments only if they are given."""

    def view():
        defer(send, "ada", subject="hi")
        defer(send, "bob")
        defer(print, object()).on_failure()
        before_response(len, "at once, so it is not counted")
        len("nor is this")

    with captured() as calls:
        calls.assert_nothing_deferred()
        get(app_that(view))
    calls.assert_deferred(len, times=0)
    assert [call.args for call in calls if "subject" in call.kwargs] == [("ada",)]
    calls.assert_deferred(send)
    calls.assert_deferred(send, times=2)
    calls.assert_deferred(send, "bob")
    calls.assert_deferred(send, "ada", subject="hi", times=1)
    calls.assert_deferred(print, times=0)
    for args, kwargs, message in [
        ((print,), {}, "builtins.print was not deferred.\n"),
        ((send,), {"times": 1}, "send was not deferred once, but 2 times.\n"),
        ((send, "ada"), {"times": 3}, "send('ada') was not deferred 3 times, but 0"),
        ((send,), {"to": "bob"}, "send(to='bob') was not deferred.\n"),
    ]:
        with pytest.raises(AssertionError) as raised:
            calls.assert_deferred(*args, **kwargs)
        text = str(raised.value)
        assert message in text
        assert "send('ada', subject='hi')" in text
        assert "print(<object object" in text
        assert "the status is 200" in text
    with pytest.raises(AssertionError, match=r"send\('bob'\)"):
        calls.assert_nothing_deferred()


def test_nothing_was_deferred():
    """A failure says so."""
    with captured() as calls:
        pass
    with pytest.raises(AssertionError, match="Nothing was deferred"):
        calls.assert_deferred(send)


def test_an_argument_that_cannot_be_shown():
    """Its type is."""

    class Unshowable:
        def __repr__(self):
            raise ValueError

    text = CallRecord(send, (Unshowable(),), {}).text
    assert "send(<Unshowable, whose repr() raised ValueError>)" in text


def test_nested_blocks(ran):
    """The innermost decides, and the others do not hear of it."""
    app = app_that(lambda: defer(ran.append, 1))
    with captured() as outer:
        get(app)
        with captured() as inner:
            get(app)
            get(app)
            assert len(inner) == 2
        assert len(outer) == 1
        with strict():
            get(app)
            assert ran == [1]
        with eager():
            get(app)
            assert ran == [1, 1]
        assert len(outer) == 1
        outer.run()
        assert ran == [1, 1, 1]
    assert switch.mode is None


def test_blocks_that_end_in_any_order():
    """As those of fixtures may."""
    first, second = captured(), captured()
    first.__enter__()
    calls = second.__enter__()
    first.__exit__(None, None, None)
    get(app_that(lambda: defer(send, 1)))
    assert len(calls) == 1
    second.__exit__(None, None, None)
    assert switch.mode is None


def test_result_in_the_view(ran):
    """The view needs it, so the call runs there."""

    def view():
        ran.append(defer(len, "four").result())

    with captured() as calls:
        exchange(app_that(view))
        assert len(calls) == 0
    assert ran == [4]


def test_a_view_in_another_thread(ran, released):
    """The end of the block waits until it has answered."""

    def view():
        defer(ran.append, 1)
        began.set()
        released.wait(10)

    app, began = app_that(view), threading.Event()
    thread = threading.Thread(target=get, args=[app])
    with captured() as calls:
        thread.start()
        assert began.wait(10)
        assert len(calls) == 0
        threading.Timer(0.05, released.set).start()
    assert len(calls) == 1
    thread.join()
    assert ran == []


def test_a_call_that_a_task_defers(ran):
    """Its thread lives on, and is not waited for."""

    def view():
        pool("p").submit(defer, ran.append, 1).result(10)

    app = app_that(view, pools={"p": ThreadPool(1)})
    with captured() as calls:
        response = Client(app).get("/")
        assert len(calls) == 1
        began = time.monotonic()
    assert time.monotonic() - began < 10
    response.close()


def test_a_child_process(ran, tmp_path):
    """A server that a test forks runs its calls."""
    with captured(), deferring():
        if not (child := os.fork()):
            with deferring():
                defer((tmp_path / "ran").touch)
            os._exit(0)
        os.waitpid(child, 0)
    assert (tmp_path / "ran").exists()


class Slow:
    """A body whose close() takes its time."""

    def __init__(self, released):
        self.released = released

    def __iter__(self):
        return iter([b"x"])

    def close(self):
        self.released.wait(10)
        defer(send, "late")


@pytest.mark.parametrize("another", [True, False])
def test_a_response_that_is_dropped(released, another):
    """It ends on the background thread, and is there at the next look all the same."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(send, "dropped")
        return Slow(released)

    with captured() as calls:
        DeferMiddleware(app)(make_environ(), lambda *head: None)
        gc.collect()
        threading.Timer(0.1, released.set).start()
        if another:
            get(app_that(lambda: defer(send, "closed")))
        assert texts(calls) == ["dropped", "late", "closed"][: 2 + another]
        assert not calls[0].outcome.delivered


def test_a_predicate_is_asked_once():
    """As in production, unless the outcome changes."""

    def wants(outcome):
        asked.append(outcome.delivered)
        return True

    asked = []

    def view():
        defer(send, 1).when(wants)

    app = DeferMiddleware(text_app(view, body=[b"one", b"two"]))
    with captured() as calls:
        body = app(make_environ(), lambda *head: None)
        assert len(calls) == len(calls) == 1
        assert asked == [True]
        body.close()
        assert len(calls) == 1
        assert asked == [True, False]
