"""The background thread, by itself."""

from __future__ import annotations

import atexit
import threading
import weakref

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Observer,
    Outcome,
    Scope,
    background,
    defer,
)
from wsgi_defer._calls.options import Options
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._runtime import host
from wsgi_defer._runtime.per_process import PerProcess
from wsgi_defer.observers._observers import Observers

from ..helpers.orders import handle_abort
from ..helpers.waiting import PATIENCE, until


def scope_with(*calls):
    """A scope in which each call is deferred."""
    scope = Scope()
    token = enter(scope)
    for fn, *args in calls:
        defer(fn, *args)
    leave(token)
    return scope


def ready():
    pass


def a_drain(fn, *args):
    """A scope with that call, as the thread takes it."""
    return scope_with((fn, *args)), Outcome(200), ready


def test_oldest_first_on_one_daemon_thread(ran):
    """Scopes are drained in turn, on a thread that does not keep the process."""
    names = []

    def call(number):
        ran.append(number)
        names.append(
            (threading.current_thread().name, threading.current_thread().daemon)
        )

    for number in range(5):
        background.submit(scope_with((call, number)), Outcome(200), ready)
    assert background.join(10)
    assert ran == [0, 1, 2, 3, 4]
    assert set(names) == {("wsgi_defer", True)}


def test_join_gives_up(ran):
    """After its timeout, it says that there is still work."""
    go = threading.Event()
    background.submit(scope_with((go.wait, 10)), Outcome(200), ready)
    assert not background.join(0.01)
    go.set()
    assert background.join(10)


def test_when_it_is_full_the_caller_works(ran, monkeypatch):
    """Nothing is dropped: the caller drains the scope itself."""
    monkeypatch.setattr(background, "MAX_WAITING", 1)
    go, started = threading.Event(), threading.Event()
    background.submit(scope_with((started.set,), (go.wait, 10)), Outcome(200), ready)
    started.wait(10)
    background.submit(scope_with((ran.append, "waits")), Outcome(200), ready)
    background.submit(scope_with((ran.append, "inline")), Outcome(200), ready)
    assert ran == ["inline"]
    go.set()
    background.join()
    assert ran == ["inline", "waits"]


def test_it_survives_an_error_of_ours(ran, caplog):
    """A fault outside of the calls is logged, and the thread goes on."""

    def broken():
        raise LookupError

    background.submit(scope_with((ran.append, 1)), Outcome(200), broken)
    background.submit(scope_with((ran.append, 2)), Outcome(200), ready)
    background.join()
    assert ran == [1, 2]
    assert "LookupError" in caplog.text


def test_gunicorns_order_to_stop_does_not_end_it(ran, caplog):
    """The thread goes on; what the order cut off is named."""
    background.submit(scope_with((handle_abort,)), Outcome(200), ready)
    background.submit(scope_with((ran.append, 1)), Outcome(200), ready)
    background.join()
    assert ran == [1]
    assert "handle_abort lost while it ran" in caplog.text


def test_it_keeps_nothing_of_the_last_scope():
    """While it waits for the next one, the last one is gone."""
    scope = scope_with((int,))
    gone = weakref.ref(scope)
    background.submit(scope, Outcome(200), ready)
    del scope
    background.join()
    until(lambda: gone() is None)


def test_where_no_thread_can_be_started(ran, monkeypatch):
    """As the interpreter shuts down: the caller drains the scope itself."""
    made = PerProcess(background._Background)
    monkeypatch.setattr(background, "_background", made)

    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    background.submit(scope_with((ran.append, 1)), Outcome(200), ready)
    assert ran == [1]


def test_a_start_that_fails_while_another_submits(ran, monkeypatch):
    """What the other one has handed over waits for the next start, or for the end."""
    thread, start = background._Background(), threading.Thread.start
    at_exit = []

    def fail(self):
        assert thread.submit(a_drain(ran.append, 1), limited=False)
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    monkeypatch.setattr(atexit, "register", at_exit.append)
    try:
        assert not thread.submit(a_drain(ran.append, 2), limited=False)
        assert at_exit == [thread.finish]
        assert thread.submit(a_drain(ran.append, 3), limited=False)
        assert thread.join(PATIENCE)
        assert ran == [1, 3]
    finally:
        thread.forget()


def test_a_submit_inside_the_first_one(ran, monkeypatch):
    """By the garbage collector, say. There is one thread."""
    thread, made, submitted = background._Background(), [], []

    class Thread(threading.Thread):
        def __init__(self, *args, **options):
            made.append(self)
            if len(made) == 1:
                submitted.append(thread.submit(a_drain(ran.append, 2), limited=False))
            super().__init__(*args, **options)

    monkeypatch.setattr(threading, "Thread", Thread)
    try:
        submitted.append(thread.submit(a_drain(ran.append, 1), limited=False))
        assert submitted == [True, True]
        assert thread.join(PATIENCE)
        assert ran == [1, 2]
        assert [each.ident is not None for each in made] == [False, True]
    finally:
        thread.forget()


def test_at_the_end_it_takes_nothing_more(ran):
    """The process might exit before it is done: the caller is to do it."""
    thread = background._Background()

    try:
        assert thread.submit(a_drain(ran.append, 1), limited=False)
        thread.finish()
        assert ran == [1]
        assert not thread.submit(a_drain(ran.append, 2), limited=False)
        thread.finish()
        assert ran == [1]
    finally:
        thread.forget()


def test_it_waits_until_it_is_ready(ran):
    """The calls begin when ready() has returned."""
    go = threading.Event()
    background.submit(scope_with((ran.append, 2)), Outcome(200), lambda: go.wait(10))
    ran.append(1)
    go.set()
    background.join()
    assert ran == [1, 2]


def test_join_on_the_thread_itself(ran):
    """A call that asks whether its own thread has ended gets an answer."""
    call = scope_with((lambda: ran.append(background.join()),))
    background.submit(call, Outcome(200), ready)
    background.join()
    assert ran == [False]


def scope_of_many(*calls, threads=16):
    """A scope whose middleware has so many threads."""
    scope = scope_with(*calls)
    scope.options = scope.options._replace(background_threads=threads)
    return scope


@pytest.mark.promise("S14")
def test_several_threads(ran):
    """The calls of several requests run at the same time; those of one, in order."""
    barrier = threading.Barrier(16)
    for number in range(16):
        calls = [(barrier.wait, PATIENCE), (barrier.wait, PATIENCE)]
        scope = scope_of_many(*calls, (ran.append, number))
        background.submit(scope, Outcome(200), ready)
    assert background.join(2 * PATIENCE)
    assert sorted(ran) == list(range(16))
    assert not barrier.broken


def test_no_more_threads_than_needed_and_than_there_may_be(ran):
    """One that is free is used again, and each middleware has its own number."""
    threads = background._Background()
    go = threading.Event()
    try:
        for most, number in (16, 1), (16, 1), (16, 2), (2, 2), (3, 3), (3, 3):
            calls = [(ran.append, 1)] if len(ran) < 2 else [(go.wait, PATIENCE)]
            scope = scope_of_many(*calls, threads=most)
            assert threads.submit((scope, Outcome(200), ready), limited=False)
            if len(ran) < 2:
                assert threads.join(PATIENCE)
            assert len(threads._threads) <= number
    finally:
        go.set()
        threads.finish()
        threads.forget()
    assert threads._has_nothing()


def test_one_more_thread_that_cannot_be_started(ran, monkeypatch):
    """Those that are there do the work."""
    threads, go = background._Background(), threading.Event()
    try:
        first = scope_of_many((go.wait, PATIENCE))
        assert threads.submit((first, Outcome(200), ready), limited=False)

        def fail(self):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", fail)
        for number in range(3):
            drain = scope_of_many((ran.append, number)), Outcome(200), ready
            assert threads.submit(drain, limited=False)
        go.set()
        assert threads.join(PATIENCE)
        assert ran == [0, 1, 2]
    finally:
        threads.forget()


def test_the_number_of_threads_is_checked():
    """When the app starts."""
    with pytest.raises(ValueError, match="background_threads must be at least 1"):
        DeferMiddleware(int, background_threads=0)
    assert DeferMiddleware(int, background_threads=2).options.background_threads == 2


class Ends(Observer):
    """What it is told of each call; the first loss lets the thread go on."""

    def __init__(self, release, has_begun):
        self.told = []
        self._release, self._has_begun = release, has_begun

    def finished(self, call, scope):
        self.told.append((call.name, "finished"))

    def skipped(self, call, scope, why):
        self.told.append((call.name, "skipped"))

    def lost(self, call, scope, why):
        self.told.append((call.name, "lost"))
        self._release.set()
        until(self._has_begun.is_set)


def test_a_call_that_begins_while_the_rest_is_lost(monkeypatch):
    """It is the thread's, which tells its end, and was not cancelled."""
    monkeypatch.setattr(background, "EXIT_WAIT", 0.01)
    monkeypatch.setattr(background, "BEAT", 0.01)
    monkeypatch.setattr(host.Host, "recorded", True)
    release, has_begun, over = (threading.Event() for _ in range(3))

    def begin():
        has_begun.set()
        over.wait(20)

    before = scope_with((release.wait, 20))
    scope = Scope(Options(observers=Observers([ends := Ends(release, has_begun)])))
    token = enter(scope)
    defer(int).named("not begun")
    defer(begin).named("begun")
    defer(int).named("cancelled").cancel()
    leave(token)
    thread = background._Background()
    try:
        for each in (before, scope):
            thread.submit((each, Outcome(200), ready), limited=False)
        thread.finish()
        assert ends.told == [("not begun", "lost"), ("cancelled", "skipped")]
        over.set()
        until(lambda: thread.join(20))
    finally:
        thread.forget()
    assert ends.told[2:] == [("begun", "finished")]
