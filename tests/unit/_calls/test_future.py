"""A deferred call is a future: its result, and what follows it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import threading
import time
import weakref
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import ContextVar, copy_context
from functools import partial

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Observer,
    Outcome,
    ScopeClosedError,
    TimeLimitError,
    WaitsForItselfError,
    background,
    before_response,
    defer,
    deferring,
    forget,
    pool,
)
from wsgi_defer._calls.call import Call, DeferredCall
from wsgi_defer._calls.drain import report_lost
from wsgi_defer._calls.future import is_first

from ...helpers.client import get, make_environ, text_app
from ...helpers.orders import handle_abort
from ...helpers.waiting import until


class Heard(Observer):
    """The label of each call that began, and each end."""

    def __init__(self):
        self.began, self.ends = [], []

    def started(self, call, scope):
        self.began.append(call.label)

    def finished(self, call, scope):
        self.ends.append(("finished", call.label))

    def failed(self, call, scope, error):
        self.ends.append(("failed", call.label))

    def skipped(self, call, scope, why):
        self.ends.append(("skipped", call.label))


@pytest.fixture
def heard():
    return Heard()


def double(number):
    return 2 * number


def fail(*args):
    raise ValueError("boom")


@pytest.mark.promise("L1", "N1", "I1", "I2")
def test_the_order_of_things(ran):
    """I1 and I2: the call is taken, the view goes on, the reply leaves, and then it
    runs. L34: at once nothing, all of it after the response; nobody must use what
    defer() returns."""

    def view():
        ran.append("A")
        defer(ran.append, "C").then(lambda result: ran.append("D"))
        ran.append("B")

    app = DeferMiddleware(text_app(view))
    body = app(make_environ(), lambda status, headers: None)
    assert list(body) == [b"hello"]
    ran.append("reply")
    body.close()
    body.close()  # a server may do so again
    assert ran == ["A", "B", "reply", "C", "D"]


def test_only_the_first_thread_publishes():
    """Whoever asks later finds nothing to tell."""
    turn = [True]
    assert is_first(turn)
    assert not is_first(turn)


def test_the_states():
    """As of any future; and it is one."""
    states = []

    def look():
        states.append((call.running(), call.done()))
        return 7

    with deferring():
        call = defer(look)
        assert isinstance(call, Future)
        assert (call.running(), call.done(), call.cancelled()) == (False, False, False)
        assert "pending" in repr(call)
    assert states == [(True, False)]
    assert (call.running(), call.done(), call.cancelled()) == (False, True, False)
    assert (call.result(), call.result(timeout=0), call.exception()) == (7, 7, None)
    assert repr(call).endswith("look: finished>")
    with pytest.raises(AttributeError, match="'DeferredCall' object has no attribute"):
        call.nothing  # noqa: B018


@pytest.mark.promise("I3")
def test_the_result_inside_the_request_runs_it_early(ran, heard):
    """I3: once, here and now; the drain does not run it again."""

    def view():
        first = defer(ran.append, 1)
        call = defer(double, 21)
        defer(ran.append, 2)
        assert call.result() == 42
        assert call.result() == 42
        assert not first.done()
        ran.append("view")

    get(DeferMiddleware(text_app(view), observers=[heard]))
    assert ran == ["view", 1, 2]
    assert heard.began == [f"{__name__}.double", "list.append", "list.append"]


def test_an_early_run_does_not_ask_for_the_outcome(ran):
    """Who asks for the result wants it."""

    def view():
        call = defer(double, 2).on_failure()
        ran.append(call.result())

    get(DeferMiddleware(text_app(view, status="500 Oh")))
    assert ran == [4]


def test_failures_are_raised_and_not_logged(caplog):
    """Who asks for the result gets the error, with its traceback."""
    with deferring():
        call = defer(fail)
        with pytest.raises(ValueError, match="boom") as caught:
            call.result()
        assert call.exception() is caught.value
        assert "in fail" in str(caught.getrepr(style="short"))
    assert caplog.text == ""
    with deferring():
        call = defer(fail)
    assert isinstance(call.exception(), ValueError)
    assert caplog.text.count("failed") == 1
    with pytest.raises(ValueError):
        call.result(timeout=0)


def test_a_call_that_never_runs_is_cancelled():
    """By hand, by the outcome, by a name, or lost with its process."""
    with deferring() as scope:
        by_hand = defer(int)
        assert by_hand.cancel() is by_hand
        assert by_hand.cancel() is by_hand
        assert by_hand.cancelled()
        by_outcome = defer(int).on_failure()
        by_name = defer(int).named("x")
        ran = defer(int).named("x")
    with deferring() as scope:
        lost = defer(int)
        report_lost(scope, "the end")
    for call in (by_hand, by_outcome, by_name, lost):
        assert call.cancelled()
        assert call.done()
        with pytest.raises(CancelledError):
            call.result()
        with pytest.raises(CancelledError):
            call.exception()
    assert ran.cancel() is False
    assert not ran.cancelled()


def test_it_waits_for_itself(caplog):
    """It is told so, directly or through another one."""
    with deferring():
        direct = defer(lambda: direct.result())
        first = defer(lambda: second.result())
        second = defer(lambda: first.result())
    for call in (direct, first, second):
        assert isinstance(call.exception(), WaitsForItselfError)
    assert "waits for its own result" in str(direct.exception())
    assert direct.exception().call.endswith("<lambda>")


def test_from_another_thread():
    """Without the request's context, it waits; and for no longer than it is told."""
    go, results = threading.Event(), []

    def wait_for_it():
        with pytest.raises(FutureTimeout):
            call.result(timeout=0.01)
        go.set()
        results.append(call.result(timeout=10))

    with deferring():
        call = defer(double, 4)
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert go.wait(10)
        assert not call.done()
    thread.join(10)
    assert results == [8]


def test_many_threads_want_it(ran):
    """With the request's context, one of them runs it, and all get the result."""
    import contextvars

    results, start = [], threading.Barrier(8)

    def ask():
        start.wait()
        results.append(call.result())

    with deferring():
        call = defer(lambda: ran.append(1) or time.sleep(0.05) or "done")
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(ask,))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ran == [1]
    assert results == ["done"] * 8


def test_wait_and_as_completed():
    """Those of concurrent.futures, in another thread, and after the calls."""
    with deferring():
        calls = [defer(double, number) for number in range(3)]
        calls.append(defer(int).cancel())
        firsts, collected = [], []

        def collect():
            firsts.append(wait(calls, return_when=FIRST_COMPLETED))
            collected.extend(each.result() for each in as_completed(calls[:3], 10))

        thread = threading.Thread(target=collect)
        thread.start()
        until(lambda: firsts)
        assert firsts[0].done == {calls[3]}
    thread.join(10)
    assert sorted(collected) == [0, 2, 4]
    assert wait(calls).not_done == set()
    assert set(as_completed(calls)) == set(calls)


@pytest.mark.parametrize("inside", ["the view", "a call", "an app"])
@pytest.mark.parametrize("known", [False, True])
def test_whoever_waits_inside_the_request_runs_it(ran, inside, known):
    """Once, and after those that it follows; also if it is watched already."""

    async def main(call):
        return await asyncio.wrap_future(call)

    def waits():
        calls = [defer(double, number) for number in (1, 2)]
        calls.append(calls[0].then(double))
        last = defer(ran.append, "once")
        if known:  # what Future keeps in its instances is there
            for each in (*calls, last):
                each.add_done_callback(lambda done: ran.append(done.done()))
            assert ran == []
        assert set(as_completed(calls)) == set(calls)
        assert wait([last, *calls]).not_done == set()
        assert [each.result() for each in calls] == [2, 4, 4]
        assert asyncio.run(main(defer(double, 3))) == 6
        assert ran == ([True] * 3 + ["once", True] if known else ["once"])
        ran.append("all")

    if inside == "an app":
        get(DeferMiddleware(text_app(waits)))
    else:
        with deferring():
            waits() if inside == "the view" else defer(waits)
    assert ran[-1] == "all"
    assert ran.count("once") == 1


@pytest.mark.parametrize("how", [wait, lambda calls: list(as_completed(calls))])
def test_a_call_that_waits_for_itself_in_other_words(how):
    """It is told so, too."""
    with deferring():
        call = defer(lambda: how([call]))
    assert isinstance(call.exception(), WaitsForItselfError)


def test_callbacks(ran):
    """Called with the call, once; at once if it has ended."""
    with deferring():
        call = defer(double, 1)
        call.add_done_callback(lambda done: ran.append(done is call))
        cancelled = defer(int)
        cancelled.add_done_callback(lambda done: ran.append(done.cancelled()))
        cancelled.cancel()
        assert ran == [True]
    call.add_done_callback(lambda done: ran.append(done.result()))
    assert ran == [True, True, 2]


def test_in_asyncio():
    """It can be awaited, as any concurrent future."""

    async def main(call):
        return await asyncio.wrap_future(call)

    with deferring():
        call = defer(double, 3)
    assert asyncio.run(main(call)) == 6


def test_the_result_of_a_coroutine():
    """It is what the coroutine returns, also with a context around it."""

    async def work():
        return 5

    async def outer():
        return inner.result()

    with deferring():
        call = defer(work)
        inner = defer(work)
        other = defer(outer)
    assert (call.result(), other.result()) == (5, 5)


def test_then(heard):
    """In the order in which they are written, each with the result before it."""
    with deferring(observers=[heard]):
        last = defer(double, 1).then(double).then(lambda number: number + 1)
        assert last.result() == 5
        assert last.chain.startswith(f"{__name__}.double -> {__name__}.double -> ")
    assert len(heard.began) == 3


def test_what_it_depends_on_runs_before_it(ran):
    """Only that, if the result is asked for early."""
    with deferring():
        defer(ran.append, "other")
        first = defer(lambda: ran.append("first") or 1)
        second = first.then(double)
        assert second.result() == 2
        assert ran == ["first"]
    assert ran == ["first", "other"]


@pytest.mark.promise("I4")
def test_catch_and_finally(ran, caplog):
    """I4: a failure runs down to the first catch(), and on from there."""
    with deferring():
        call = (
            defer(fail)
            .then(ran.append)
            .finally_(lambda: ran.append("finally"))
            .catch(lambda error: ran.append(type(error)) or "caught")
            .catch(ran.append)
            .then(lambda value: ran.append(value) or "end")
            .finally_(lambda: ran.append("finally, too"))
        )
    assert ran == ["finally", ValueError, "caught", "finally, too"]
    assert call.result() == "end"
    assert caplog.text == ""


def test_what_wait_has_taken_is_given_back(ran):
    """While it runs calls, in their order, and if one of them is itself."""
    other = Future()
    errors = []

    def waits():
        try:
            wait([other, *calls])
        except WaitsForItselfError as error:
            errors.append(error)

    def settle():
        thread = threading.Thread(target=other.set_result, args=(1,))
        thread.start()
        thread.join(20)
        ran.append("settled" if other.done() else "stuck")

    with deferring():
        calls = [defer(settle), *[defer(ran.append, n) for n in range(20)]]
        assert wait([other, *calls], timeout=20).not_done == set()
    assert ran == ["settled", *range(20)]
    other = Future()
    with deferring():
        calls = [defer(waits)]
    assert len(errors) == 1
    settle()
    assert ran[-1] == "settled"


def test_a_catch_that_raises_the_same_error(caplog):
    """It has not handled it, so that is logged, once."""

    def again(error):
        raise error

    with deferring():
        defer(fail).catch(again).then(double)
    [record] = caplog.records
    assert "fail -> " in record.getMessage()
    assert "again" in record.getMessage()


def test_an_unhandled_failure_is_logged_once(caplog, heard):
    """With the names of the whole chain, and where it was deferred."""
    with deferring(observers=[heard]):
        first = defer(fail).named("fetch")
        first.then(double).named("parse").then(double).named("save")
        first.then(double).named("branch")
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1
    assert "deferred call fetch -> parse -> save failed" in logged[0].getMessage()
    assert heard.ends == [("failed", name) for name in
                          ("fetch", "parse", "save", "branch")]  # fmt: skip


def test_a_failure_in_a_link(caplog):
    """Is one of its own."""
    with deferring():
        defer(fail).named("a").catch(fail).named("b")
        defer(double, 1).named("c").finally_(fail).named("d")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "call a -> b failed" in messages[0]
    assert "call c -> d failed" in messages[1]


def test_a_handler_that_does_not_run(caplog):
    """Then the failure is unhandled, and logged."""
    with deferring():
        defer(fail).named("a").catch(ignore).on_failure()
        defer(fail).named("b").catch(ignore).cancel()
    with deferring() as scope:
        call = defer(fail).named("c")
        call.catch(ignore)
        call.exception()
        report_lost(scope, "the end")
    text = caplog.text
    assert text.count("call a failed") == 1
    assert text.count("call b failed") == 1
    assert "call c failed" not in text  # who asked for it, has it
    assert "ignore lost" in text


def ignore(*args):
    pass


def test_what_follows_is_wanted_if_the_first_one_is(ran):
    """Unless it says otherwise."""
    with deferring():
        defer(ran.append, 1).on_failure().then(lambda value: ran.append("no"))
        defer(int).cancel().then(lambda value: ran.append("no"))
    with pytest.raises(LookupError), deferring():  # noqa: PT012
        defer(ran.append, 2).on_failure().then(lambda value: ran.append(3))
        defer(ran.append, 4).always().finally_(lambda: ran.append(5))
        raise LookupError
    assert ran == [2, 3, 4, 5]


def test_a_cancelled_call_is_followed_by_nothing(ran, heard):
    """There is no result, and no error either."""
    with deferring(observers=[heard]):
        call = defer(int)
        call.always().then(ran.append).always()
        call.catch(ran.append).always()
        call.finally_(lambda: ran.append(1)).always()
        call.cancel()
    assert ran == []
    assert [end for end, _ in heard.ends] == ["skipped"] * 4


def test_followed_in_another_scope():
    """The new call belongs to the scope of the first one."""
    with deferring():
        outer = defer(double, 1)
        with deferring() as inner:
            second = outer.then(double)
            assert inner.registered == 0
        assert not second.done()
    assert second.result() == 4
    with pytest.raises(ScopeClosedError, match=r"then\(\) was called after"):
        second.then(double)


@pytest.mark.parametrize("method", ["then", "catch", "finally_"])
def test_bad_input(method):
    """Refused at the line that has it."""
    with deferring():
        call = defer(int)
        with pytest.raises(TypeError, match=rf"{method}\(\) takes a function, not int"):
            getattr(call, method)(3)
        follower = getattr(call, method)(ignore)
        line = inspect.currentframe().f_lineno - 1
        assert follower.origin == f"{__file__}:{line}"
        assert not call.cancelled()
    from wsgi_defer._calls.call import DeferredCall

    loose = DeferredCall(int, (), {}, inspect.currentframe())
    with pytest.raises(RuntimeError, match="is for calls that defer"):
        getattr(loose, method)(ignore)
    with pytest.raises(FutureTimeout):
        loose.result(timeout=0)


def test_a_limit_in_a_chain():
    """It is an error as any other."""
    with deferring():
        slow = defer(time.sleep, 20).time_limit(0.05)
        caught = slow.catch(lambda error: error)
        limited = defer(double, 8).time_limit(5)
    assert isinstance(caught.result(), TimeLimitError)
    assert limited.result() == 16


def test_on_the_background_thread(ran):
    """As anywhere."""

    def view():
        call = defer(double, 4)
        call.then(ran.append)
        handles.append(call)

    handles = []
    get(DeferMiddleware(text_app(view), inline=False))
    assert handles[0].result(timeout=10) == 8
    assert background.join(10)
    assert ran == [8]


def test_a_failed_call_is_in_no_cycle(monkeypatch):
    """It keeps its error, which leads to the frames that ran it."""
    monkeypatch.setattr(logging.getLogger("wsgi_defer"), "disabled", True)

    class Thing:
        def work(self):
            raise ValueError

    gc.collect()
    gc.disable()
    try:
        things = [Thing(), Thing(), Thing()]
        alive = [weakref.ref(thing) for thing in things]
        with deferring():
            defer(things[0].work)
            defer(things[1].work).then(double)
            defer(things[2].work).time_limit(5)
        things.clear()
        # The watch may just look at the last one.
        until(lambda: [thing() for thing in alive] == [None] * 3)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["catch", "finally_"])
def test_an_order_to_stop_is_not_caught(ran, caplog, how):
    """It is not the failure of a call."""
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        first = defer(handle_abort).named("stopped")
        handler = getattr(first, how)(lambda *error: ran.append(1)).named("handler")
        handler.result()
    assert ran == []
    assert "stopped lost while it ran" in caplog.text
    assert "handler lost" in caplog.text


def test_followed_from_a_thread_without_the_request():
    """And asked for inside it."""
    calls = []
    with deferring():
        first = defer(double, 1)
        thread = threading.Thread(target=lambda: calls.append(first.then(double)))
        thread.start()
        thread.join()
        assert calls[0].result(timeout=5) == 4


def test_asked_for_in_an_inner_block():
    """The outer scope's call runs; it is still inside its request."""
    with deferring():
        outer = defer(double, 1)
        with deferring():
            assert outer.result(timeout=5) == 2


def test_a_long_early_chain():
    """It is no recursion."""
    with deferring():
        call = defer(double, 1)
        for _ in range(900):
            call = call.then(lambda value: value + 1)
        assert call.result() == 902


def test_a_long_chain_whose_first_call_asks(ran):
    """Whether it runs is asked once, for all that follow."""
    with deferring():
        call = defer(double, 1).when(lambda outcome: ran.append(1) or True)
        for _ in range(900):
            call = call.then(lambda value: value + 1)
    assert call.result() == 902
    assert ran == [1]


def test_an_early_run_after_a_cancelled_call(heard):
    """Is none: as in the drain, it is skipped."""
    with deferring(observers=[heard]):
        first = defer(int)
        second = first.then(ignore)
        first.cancel()
        with pytest.raises(CancelledError):
            second.result()
    assert [end for end, _ in heard.ends] == ["skipped", "skipped"]


def test_an_early_run_is_followed_whatever_the_status(ran):
    """What follows a call runs if that one did."""

    def view():
        call = defer(double, 1)
        call.then(ran.append)
        call.result()

    get(DeferMiddleware(text_app(view, status="404 No")))
    assert ran == [2]


def test_the_last_of_a_name_runs_early(ran):
    """Those before it do not run any more."""
    with deferring():
        defer(ran.append, "old").named("x")
        new = defer(ran.append, "new").named("x")
        new.result()
    assert ran == ["new"]


def test_a_waiter_that_gives_up_is_no_handler(caplog):
    """The failure is logged."""

    def look():
        with pytest.raises(FutureTimeout):
            call.result(timeout=0)

    with deferring():
        call = defer(fail).named("failing")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert "call failing failed" in caplog.text


def test_a_cancelled_error_of_the_function(ran):
    """Is a failure like any other."""

    def cancelled():
        raise CancelledError

    with deferring():
        defer(cancelled).catch(lambda error: ran.append(type(error)))
    assert ran == [CancelledError]


def test_a_callback_that_exits(ran, caplog):
    """It harms no call; and an order to stop in one goes on, after all was told."""
    with deferring():
        defer(double, 1).add_done_callback(lambda call: sys.exit())
        defer(ran.append, 1)
    assert ran == [1]
    assert "a callback of the deferred call" in caplog.text
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        defer(fail).named("told").add_done_callback(handle_abort)
        defer(ran.append, 2)
    assert ran == [1]
    assert "call told failed" in caplog.text


def test_no_noise_of_cancelled_calls(caplog):
    """Looked at before and after."""
    with deferring():
        call = defer(int).cancel()
        call.add_done_callback(ignore)
        other = defer(int)
        other.add_done_callback(ignore)
        other.cancel()
    assert caplog.text == ""


def test_a_caught_failure_stays_caught(caplog):
    """Also for those that follow it later, and do not run."""
    with deferring():
        call = defer(fail)
        call.catch(ignore).result()
        call.finally_(ignore).cancel()
    with pytest.raises(ScopeClosedError):
        call.then(ignore)
    assert caplog.text == ""


def test_interrupted_early(heard, monkeypatch):
    """Whatever it is, the call has an end."""

    class Broken(Observer):
        def started(self, call, scope):
            handle_abort()

    stopped = pytest.raises(SystemExit)
    with stopped, deferring(observers=[heard, Broken()]) as scope:
        scope.run_call = lambda call, scope: 1 / 0
        call = defer(int)
        with pytest.raises(ZeroDivisionError):
            call.result()
        del scope.run_call
        assert call.cancelled()
        defer(float).result()


def test_all_that_run_are_lost_together(caplog):
    """One that runs, and one that it has made to run early."""

    def inner():
        report_lost(scope, "the process exits")

    with deferring() as scope:
        defer(lambda: late.result()).named("outer")
        late = defer(inner).named("inner")
    assert "outer lost while it ran" in caplog.text
    assert "inner lost while it ran" in caplog.text


def test_published_by_another_thread():
    """Two threads may make the future and end it at the same time; it ends once."""
    with deferring():
        call = defer(double, 1)
        condition = call._make()
        assert call._state == "PENDING"
    call.publish()
    assert call._condition is condition
    assert call._state == "FINISHED"


def test_what_another_thread_has_taken(heard):
    """At the same moment: the drain goes on with the next, and so does who asks."""

    class Racing(dict):
        def __delitem__(self, call):
            super().__delitem__(call)
            raise KeyError

    with deferring(observers=[heard]) as scope:
        call = defer(int)
        scope.deferred = Racing(scope.deferred)
        with pytest.raises(FutureTimeout):
            call.result(timeout=0)
        scope.deferred = Racing({defer(float): None})
        assert scope.take() is None
        cancelled = defer(str).cancel()
        scope.deferred = {cancelled: None}
        scope._run_early(cancelled)
    assert ("skipped", "builtins.str") in heard.ends


def test_cancelled_while_somebody_waits(ran):
    """It is told so."""

    def ask():
        call.add_done_callback(lambda done: None)  # the future is there
        asked.set()
        with pytest.raises(CancelledError):
            call.result(timeout=10)
        ran.append("told")

    asked = threading.Event()
    with deferring():
        call = defer(int)
        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(10)
        until(lambda: call._awaited)  # it is about to wait
        time.sleep(0.02)
        call.cancel()
        thread.join()
    assert ran == ["told"]


def test_wanted_as_the_first_one(ran):
    """Before that has run; and an order to stop in the question is one."""
    with deferring():
        first = defer(int).on_failure()
        second = first.then(ignore).then(ignore)
        assert not second.wants(Outcome(200))
        assert second.wants(Outcome(500))
    with pytest.raises(SystemExit), deferring():  # noqa: PT012
        defer(int).when(handle_abort)
        defer(ran.append, 1)
    assert ran == []


def test_left_to_who_records_it(heard):
    """The one that runs may come to its end; those that wait do not begin."""
    with deferring(observers=[heard]) as scope:
        defer(lambda: report_lost(scope, "x", running=False)).named("runs")
        defer(int)
    assert heard.ends == [("finished", "runs")]
    assert scope.lost == 1


def test_the_calls_of_a_parent_process():
    """They are not run early in the child."""
    with deferring() as scope:
        call = defer(int)
        ours, scope.process = scope.process, -1
        with pytest.raises(FutureTimeout):
            call.result(timeout=0)
        scope.process = ours
    assert call.result() == 0


def test_two_threads_look_at_it_first():
    """The slower one does not tell its end once more."""
    with deferring():
        call = defer(int)
    wait([call])
    call._make()  # begun by another thread, before that
    assert call.result() == 0


def test_a_long_chain_fails_in_a_few_words(caplog):
    """The last calls of it are named, each time."""
    for _ in range(2):
        with deferring():
            call = defer(int, "x")
            for _ in range(990):
                call = call.then(ignore)
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.getMessage().startswith("deferred call ... -> ")
        assert record.getMessage().count(" -> ") == 10


def generates():
    """A generator function."""
    yield


async def generates_later():
    """An asynchronous one."""
    yield


class Generates:
    """An object whose call is one."""

    def __call__(self):
        yield

    method = __call__


@pytest.mark.parametrize(
    "fn",
    [generates, generates_later, partial(generates), Generates(), Generates().method],
    ids=repr,
)
def test_generator_functions_are_refused(fn):
    """Wherever they are given, as nothing of them would run."""
    with deferring():
        call = defer(int)
        for take in (defer, before_response, call.then, call.catch, call.finally_,
                     pool().submit):  # fmt: skip
            with pytest.raises(TypeError, match=r"\(\) would run nothing of .*genera"):
                take(fn)


def test_what_answers_to_any_name_is_no_generator_function(ran):
    """Such as a proxy without its object."""

    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self):
            ran.append(1)

    with deferring():
        defer(Proxy())
    assert ran == [1]


def test_many_named_calls(monkeypatch):
    """Names, results in reverse order: the work grows with their number alone."""
    looks = []
    monkeypatch.setattr(
        Call, "name", property(lambda call: looks.append(call) or call._name)
    )

    def looks_at_names(count):
        looks.clear()
        with deferring(max_calls=count):
            calls = [defer(int).named(str(number)) for number in range(count)]
            for call in calls[: count // 2 : -1]:
                call.result()
        return len(looks)

    # Quadratic, it would be 16 times as many.
    assert looks_at_names(4000) < 5 * looks_at_names(1000)


def test_the_report_is_in_the_context_of_the_call():
    """A filter of the log may read what the view has set."""
    variable = ContextVar("variable")
    seen = []

    class Reads(Observer):
        def failed(self, call, scope, error):
            seen.append(variable.get())

    def view():
        variable.set("the view's")
        defer(int, "x")

    with deferring(observers=[Reads()]):
        copy_context().run(view)
    assert seen == ["the view's"]


def test_the_last_name_counts():
    """Of calls that are named late, renamed, cancelled, or forgotten."""
    ran = []
    with deferring() as scope:
        one, two, three = (defer(ran.append, number) for number in (1, 2, 3))
        three.named("x")
        one.named("x")
        two.named("x").named("y")
        three.cancel()
        defer(ran.append, 4).named("z")
        defer(ran.append, 5).named("z").named("y2")
        defer(ran.append, 6).named("gone").named("other")
        defer(ran.append, 7).named("gone")
        forget("gone")
        before = defer(ran.append, 0).named("a")
        twice = defer(ran.append, 8).named("a").named("b")
        defer(ran.append, 9).named("a")
        twice.named("a").result()
        assert before.cancelled()
        last = defer(ran.append, 10).named("c")
        last.result()
        scope.drop(last, "x")
        assert not scope._is_replaced(defer(int))  # it has no name
    assert ran == [8, 10, 1, 2, 4, 5, 6, 9]
    one.named("too late")
    Call(int, (), {}, inspect.currentframe()).named("of nobody")


def test_what_tools_look_at():
    """As those that show a future do, without waiting for it."""
    with deferring():
        call = defer(int)
        assert call._state == "PENDING"
        assert not call.done()
    assert call._state == "FINISHED"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        call.nothing  # noqa: B018


def test_the_class_can_be_looked_at():
    """As pydoc does: what an instance makes when asked, the class does not."""
    assert "_state" in dict(inspect.getmembers(DeferredCall))
