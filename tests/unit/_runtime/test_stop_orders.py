"""Orders to stop outside gunicorn: Ctrl-C, and a handler that calls sys.exit()."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading

import pytest

from wsgi_defer import Observer, background, before_response, defer, deferring
from wsgi_defer._request.middleware import DeferMiddleware
from wsgi_defer._runtime.stop_orders import is_order_to_stop

from ...helpers.client import get, text_app
from ...helpers.waiting import PATIENCE


def stop(number, frame):
    sys.exit(143)


def stop_deeper(number, frame):
    clean_up_and_exit()


def clean_up_and_exit():
    raise SystemExit(143)


def stop_whatever_comes(*_):
    sys.exit(143)


def stop_and_step_back(number, frame):
    """A second signal is to end the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(143)


def stop_with(code):
    return lambda number, frame: sys.exit(code)


class Stopper:
    def method(self, number, frame):
        sys.exit(143)

    def __call__(self, number, frame=None):
        sys.exit(143)


def with_code(code, number, frame):
    sys.exit(code)


@functools.lru_cache
def cached(number, frame):
    sys.exit(143)


HANDLERS = {
    "a function": stop,
    "what it calls": stop_deeper,
    "arguments that are not named": stop_whatever_comes,
    "one that is gone": stop_and_step_back,
    "a closure": stop_with(143),
    "a method": Stopper().method,
    "an object": Stopper(),
    "a partial": functools.partial(with_code, 143),
    "a wrapped one": cached,
}


@pytest.fixture(params=HANDLERS)
def terminate(request):
    """What is like TERM from outside, with each of these handlers."""
    before = signal.signal(signal.SIGTERM, HANDLERS[request.param])
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def check_that_it_ends(stop, error, ran, caplog):
    """The block ends with that error, and each call that did not run is named."""
    with pytest.raises(error), deferring() as scope:  # noqa: PT012
        defer(ran.append, 1)
        defer(stop).named("cut off")
        defer(ran.append, 2).named("the second").always()
        defer(ran.append, 3).named("the third")
    assert ran == [1]
    assert (scope.finished, scope.failed, scope.lost) == (1, 0, 3)
    for name in ("the second", "the third"):
        assert f"deferred call {name} lost: the process was told to stop" in caplog.text
    assert "deferred call cut off lost while it ran" in caplog.text


def test_a_handler_that_exits(ran, caplog, terminate):
    """It ends the calls, however it is written."""
    check_that_it_ends(terminate, SystemExit, ran, caplog)


def test_ctrl_c(ran, caplog):
    """It ends the calls."""
    check_that_it_ends(interrupt, KeyboardInterrupt, ran, caplog)


def test_in_the_block(ran, caplog, terminate):
    """No call begins."""
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        defer(ran.append, 1).always()
        terminate()
    assert ran == []
    assert "list.append lost: the process was told to stop" in caplog.text


def test_in_a_held_call(ran, caplog):
    """The next ones do not begin, held or not."""
    with pytest.raises(KeyboardInterrupt), deferring() as scope:  # noqa: PT012
        before_response(interrupt)
        before_response(ran.append, 1)
        defer(ran.append, 2).always()
    assert ran == []
    assert scope.lost == 3


def test_in_a_request(ran):
    """Out of close(), into the server."""
    app = DeferMiddleware(
        text_app(lambda: [defer(interrupt), defer(ran.append, 1)]), inline=True
    )
    with pytest.raises(KeyboardInterrupt):
        get(app)
    assert ran == []


def test_in_an_observer(ran):
    """It is no fault of the observer's."""

    class Heard(Observer):
        def finished(self, call, scope):
            interrupt()

    with pytest.raises(KeyboardInterrupt), deferring(observers=[Heard()]):  # noqa: PT012
        defer(ran.append, 1)
        defer(ran.append, 2)
    assert ran == [1]


def test_on_the_background_thread(ran):
    """No signal comes there: it is the call's own fault, and the next ones run."""

    def raise_it():
        raise KeyboardInterrupt

    app = DeferMiddleware(
        text_app(lambda: [defer(raise_it), defer(ran.append, 1)]), inline=False
    )
    get(app)
    assert background.join(PATIENCE)
    assert ran == [1]


def test_a_greenlet(monkeypatch):
    """To Python it is no main thread, but it runs in that."""
    monkeypatch.setattr(threading, "current_thread", object)
    assert is_order_to_stop(KeyboardInterrupt())
    monkeypatch.setattr(threading, "get_native_id", lambda: -1)
    assert not is_order_to_stop(KeyboardInterrupt())


@pytest.mark.parametrize(
    "arguments", [(), (15,), (15, None), ("15", sys._getframe()), (15, sys._getframe())]
)
def test_a_call_that_exits(ran, arguments):
    """By itself, whatever it was given: it has failed, and the next one runs."""
    with deferring() as scope:
        defer(stop_whatever_comes, *arguments)
        defer(ran.append, 1)
    assert ran == [1]
    assert scope.failed == 1


def test_an_exit_that_was_never_raised():
    """There is nothing to see on it."""
    assert not is_order_to_stop(SystemExit(1))
