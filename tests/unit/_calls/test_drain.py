"""The drain by itself: what only shows with a scope made by hand."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import nullcontext, suppress

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Observer,
    Outcome,
    Scope,
    TooManyCallsError,
    background,
    before_response,
    current_scope,
    defer,
    deferring,
)
from wsgi_defer._calls.drain import drain, report_lost
from wsgi_defer._calls.options import Options
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._runtime import host

from ...helpers.client import get, text_app
from ...helpers.orders import handle_abort, handle_quit


class SlowToClose(Scope):
    """A scope to which another thread adds a call just as it is closed."""

    def __setattr__(self, name, value):
        if name == "closed" and not self.registered:
            token = enter(self)
            defer(self.late)
            leave(token)
        super().__setattr__(name, value)


def test_a_call_that_comes_at_the_last_moment_runs(ran):
    """The drain looks once more after it has closed the scope."""
    scope = SlowToClose()
    scope.late = lambda: ran.append(1)
    drain(scope, Outcome(200))
    assert ran == [1]
    assert scope.closed


def test_report_lost(caplog):
    """Every call is named, those that wait and the one that runs; then dropped."""
    with deferring() as scope:
        report_lost(scope, "nothing to report")
    with deferring() as scope:
        defer(print, "secret").named("the running one")
        scope.running = scope.take()
        defer(print, "secret")
        report_lost(scope, "the end")
        scope.running = None
        report_lost(scope, "the end")
        assert scope.pending == ()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("deferred call the running one lost: the end;")
    assert len(messages) == 2
    assert messages[1].startswith("deferred call builtins.print lost: the end; from ")


def test_the_order_to_stop_between_two_calls(ran, caplog):
    """The call that has ended is not named, the next one is."""

    class Scope2(Scope):
        def take(self):
            if self.finished:
                handle_abort()
            return super().take()

    scope = Scope2()
    token = enter(scope)
    defer(ran.append, 1)
    defer(ran.append, 2)
    leave(token)
    with pytest.raises(SystemExit):
        drain(scope, Outcome(200))
    assert ran == [1]
    assert caplog.text.count("lost: the process was told to stop") == 1


def test_the_order_to_stop_in_the_view(ran, caplog):
    """gunicorn's timeout ended the view: its calls are named, and not begun."""
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        defer(ran.append, 1).always()
        handle_abort()
    assert ran == []
    assert "list.append lost: the process was told to stop" in caplog.text


def test_the_order_to_stop_inside_defer(ran, caplog):
    """Who has heard that a call waits hears that it is lost, and it does not run."""

    class Stops(Observer):
        def queued(self, call, scope):
            handle_abort()

    with pytest.raises(SystemExit), deferring(observers=[Stops()]):
        defer(ran.append, 1).always()
    assert ran == []
    assert "list.append lost: defer() was interrupted by SystemExit" in caplog.text


def test_the_order_to_stop_in_a_held_call(ran, caplog):
    """The block's other calls are named, and the order goes on."""
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        before_response(handle_abort)
        defer(ran.append, 1).always()
    assert ran == []
    assert "list.append lost: the process was told to stop" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_leaves_a_held_call(error):
    """The request is not over, so it goes up as it would from the view."""

    def leave_it():
        raise error

    with pytest.raises(error), deferring():
        before_response(leave_it)


def test_a_log_filter_that_raises(ran):
    """Reporting one call does not cost the next."""

    def refuse(record):
        raise RuntimeError

    logger = logging.getLogger("wsgi_defer")
    logger.addFilter(refuse)
    try:
        with deferring():
            defer(int, "no number")
            defer(ran.append, 1)
    finally:
        logger.removeFilter(refuse)
    assert ran == [1]


def test_a_dropped_scope_names_its_calls(caplog):
    """One that nobody drains; a rejected call is no loss."""
    scope = Scope(Options(max_calls=1))
    token = enter(scope)
    defer(int).named("the lost one")
    with pytest.raises(TooManyCallsError):
        defer(int).named("the rejected one")
    leave(token)
    del scope, token
    gc.collect()
    assert "the lost one lost: its scope was dropped" in caplog.text
    assert "rejected" not in caplog.text


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_calls": 0}, ValueError), ({"around": "database"}, TypeError)],
)
def test_options(options, error):
    """What would fail at the first call is refused at once."""
    with pytest.raises(error), deferring(**options):
        pass
    with pytest.raises(error):
        DeferMiddleware(int, **options)


def test_a_quit_in_a_block(ran):
    """gunicorn's handler exits with 0, which is no success of the block."""

    def block():
        with deferring() as scope:
            scopes.append(scope)
            before_response(ran.append, "held")
            defer(ran.append, "deferred").always()
            handle_quit()

    scopes = []
    with pytest.raises(SystemExit):
        block()
    assert ran == []
    assert (scopes[0].finished, scopes[0].lost) == (0, 2)


def scope_of_one():
    """A scope with one call."""
    scope = Scope()
    token = enter(scope)
    call = defer(int)
    leave(token)
    return scope, call


def test_a_call_that_is_lost_beside_a_drain(monkeypatch):
    """Both find it; the one who has it off the list tells its end."""
    lose = Scope.lose

    def lose_beside(scope, call, why):
        call.take()
        assert scope.take() is None  # as the drain of another thread
        lose(scope, call, why)

    monkeypatch.setattr(Scope, "lose", lose_beside)
    scope, call = scope_of_one()
    report_lost(scope, "the process exits", running=False)
    assert (scope.lost, scope.skipped) == (1, 0)
    assert call.cancelled()


def test_an_order_to_stop_inside_cancel():
    """It was not cancelled, then, and somebody is told of its end."""
    scope, call = scope_of_one()
    call.take()  # as far as cancel() came
    report_lost(scope, "the process was told to stop")
    assert (scope.lost, scope.skipped) == (1, 0)


def test_an_order_to_stop_and_a_close_that_raises(ran):
    """The order counts."""

    class Body:
        def __iter__(self):
            yield b"some"
            handle_abort()

        def close(self):
            raise KeyError

    def app(environ, start_response):
        defer(ran.append, 1).always()
        start_response("200 OK", [])
        return Body()

    with pytest.raises(KeyError):
        get(DeferMiddleware(app, inline=True))
    assert ran == []


def test_cancelled_just_before_the_response(ran, monkeypatch):
    """By another thread, when the call was already due."""
    take_held = Scope.take_held

    def take_and_cancel(scope):
        call = take_held(scope)
        if call is not None and not ran:
            call.cancel()
            ran.append("cancelled")
        return call

    monkeypatch.setattr(Scope, "take_held", take_and_cancel)

    def view():
        scopes.append(current_scope())
        before_response(ran.append, 1)
        before_response(ran.append, 2)

    scopes = []
    get(DeferMiddleware(text_app(view)))
    assert ran == ["cancelled", 2]
    assert (scopes[0].finished, scopes[0].skipped) == (1, 1)


@pytest.mark.parametrize(
    ("status", "options", "why"),
    [
        (404, [], "the status is 404; the call runs only after a success"),
        (200, ["on_failure"], "the status is 200; the call runs only after a failure"),
        (200, ["when"], "the status is 200; the call's when() function said no"),
        (None, [], "LookupError was raised; the call runs only after a success"),
        (None, ["when"], "LookupError was raised; the call's when() function said no"),
    ],
)
def test_why_a_call_is_skipped(caplog, status, options, why):
    """With what became of the response, and what the call wants; in a chain, too."""

    def view():
        call = defer(int)
        for option in options:
            getattr(call, option)(*([lambda outcome: False] * (option == "when")))
        call.then(float)
        if status is None:
            raise LookupError("secret")

    caplog.set_level(logging.DEBUG, "wsgi_defer")
    app = DeferMiddleware(text_app(view, f"{status} As Is"), inline=True)
    with nullcontext() if status else pytest.raises(LookupError):
        get(app)
    background.join()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"deferred call builtins.int skipped: {why}; ")
    followed = "the call that it follows did not run"
    assert told[1].startswith(f"deferred call builtins.float skipped: {followed}; ")


def test_why_a_call_is_skipped_that_follows_one_which_waits(caplog):
    """It was registered first, by a call that ran; and without any response."""
    caplog.set_level(logging.DEBUG, "wsgi_defer")
    with deferring() as scope:
        call = defer(int).on_failure()
        call.then(float)
        scope.deferred = dict(reversed(scope.deferred.items()))
    assert caplog.text.count(
        "skipped: nothing was raised; the call runs only after a failure"
    ) == 2  # fmt: skip


def test_a_request_whose_last_call_is_skipped_is_freed():
    """At once, and not by the garbage collector."""
    gc.disable()
    try:
        with deferring() as scope:
            defer(int).on_failure()
        gone = weakref.ref(scope)
        del scope
        assert gone() is None
    finally:
        gc.enable()


def test_what_comes_at_the_end_is_not_handed_over(monkeypatch, ran):
    """The scope is closed then, and nobody would look at it on another thread."""

    class LateScope(Scope):
        def shut(self):
            if not self.closed:
                defer(ran.append, "late")
                self.closed = True
                return False
            return super().shut()

    monkeypatch.setattr(host.current, "client_waiting", lambda: True)
    scope = LateScope()
    token = enter(scope)
    try:
        assert drain(scope, Outcome(), "thread")
    finally:
        leave(token)
    assert ran == ["late"]


def test_cancelled_by_its_own_when(ran):
    """It has an end, and does not keep its place among those that wait."""
    heard = Ends()

    def view():
        call = defer(ran.append, 1)
        call.when(lambda outcome: call.cancel())

    app = DeferMiddleware(text_app(view), observers=[heard], max_waiting=1)
    for _ in range(2):  # the second needs the place of the first
        get(app)
    assert ran == []
    assert heard.ends == ["it was cancelled"] * 2


@pytest.mark.parametrize("held", [True, False])
def test_a_block_is_freed_after_a_failure(held, caplog):
    """A failure to ask a call, or to hand work over, leaves no cycle behind."""

    def fail(outcome=None):
        raise ZeroDivisionError

    caplog.set_level(logging.CRITICAL, "wsgi_defer")  # a record keeps the traceback
    gc.collect()
    gc.disable()
    try:
        with suppress(ZeroDivisionError), deferring() as scope:
            if held:
                before_response(fail)
            defer(int).when(fail)
        gone = weakref.ref(scope)
        del scope
        assert gone() is None
    finally:
        gc.enable()


class Ends(Observer):
    """Notes why calls were skipped."""

    def __init__(self):
        self.ends = []

    def skipped(self, call, scope, why):
        self.ends.append(why)
