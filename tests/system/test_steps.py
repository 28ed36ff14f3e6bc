"""What may come at any step of ours: an order to stop, or the garbage collector."""

from __future__ import annotations

import gc
import os
import queue
import threading
from contextlib import suppress
from contextvars import copy_context

import pytest

import wsgi_defer
from wsgi_defer import DeferMiddleware, Observer, background, before_response, defer
from wsgi_defer.ledger import Ledger
from wsgi_defer.observers._observers import observe_process, stop_observing

from ..helpers.client import get, text_app
from ..helpers.orders import handle_abort
from ..helpers.steps import each_step_of
from ..helpers.waiting import PATIENCE
from ..unit.test_background import a_drain

OURS = os.path.dirname(wsgi_defer.__file__) + os.sep
# The functions in which the end of a call is the first one's to tell, but not told yet.
TELLING = ("claim_end", "_tell_skipped", "_tell_end", "tell")


class Ends(Observer):
    """Which calls were told to wait, and which to have ended."""

    def __init__(self):
        self.queued_ones, self.ended = [], []

    def queued(self, call, scope):
        self.queued_ones.append(call._fn.__name__)

    def finished(self, call, scope, *more):
        self.ended.append(call._fn.__name__)

    failed = skipped = lost = finished


@pytest.fixture
def ledger():
    """What the master of gunicorn reads when a worker has died."""
    return Ledger(pages=1)


def left_by(step, ledger, app):
    """The names of the calls that a process has left that was stopped at that step."""
    page = ledger.take_page()
    recorder = ledger.recorder(page)
    observe_process(recorder)
    try:
        with suppress(SystemExit), step:
            copy_context().run(get, app)
        gc.collect()
        assert background.join(PATIENCE)
    finally:
        stop_observing(recorder)
    return {call.name.rpartition(".")[2] for call in ledger.close_page(page)[0]}


def test_an_order_to_stop_at_any_step_of_a_request(ledger, ran):
    """Whatever was registered has run, or its end was told, or the ledger has it."""

    def held():
        ran.append("held")

    def first():
        ran.append("first")

    def failing():
        ran.append("failing")
        raise ValueError

    def unwanted():
        ran.append("unwanted")

    def last():
        ran.append("last")

    def view():
        before_response(held)
        defer(first)
        defer(failing)
        defer(unwanted).on_failure()
        defer(last).always()

    for step in each_step_of(OURS, handler=handle_abort):
        heard = Ends()
        ran.clear()
        left = left_by(step, ledger, DeferMiddleware(text_app(view), observers=[heard]))
        assert len(ran) == len(set(ran)), step.at
        assert len(heard.ended) == len(set(heard.ended)), step.at
        assert {*heard.queued_ones} <= {*ran, *heard.ended, *left}, step.at
        assert "failing" not in ran or "failing" in {*heard.ended, *left}, step.at
        if not step.at.endswith(TELLING):
            assert {*heard.queued_ones} <= {*ran, *heard.ended}, step.at
    assert ran == ["held", "first", "failing", "last"]
    assert not left


class NothingLeftError(Exception):
    """Instead of a wait for ever."""


class Tokens(queue.SimpleQueue):
    """A queue, but for that."""

    def get(self):
        if self.empty():
            raise NothingLeftError
        return super().get()


def test_a_scope_handed_over_at_any_step_of_the_background_thread(ran):
    """By the thread itself, where the collector finds a response that was dropped."""

    def hand_over(number):
        thread.submit(a_drain(ran.append, number), limited=False)

    files = threading.__file__, queue.__file__
    for step in each_step_of(OURS, *files, handler=lambda: hand_over(3)):
        ran.clear()
        thread = background._Background()
        thread._threads = {threading.current_thread()}  # the work is done in this one
        thread._tokens = Tokens()
        hand_over(1)
        hand_over(2)
        with suppress(NothingLeftError), step:
            thread._work()
        assert ran == ([1, 2, 3] if step.at else [1, 2]), step.at
