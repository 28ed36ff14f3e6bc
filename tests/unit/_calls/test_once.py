"""``once_for()``: a call runs if nobody runs, or has just run, its name."""

from __future__ import annotations

import logging
import os
import tempfile

import pytest
from cachelib import NullCache, SimpleCache

from wsgi_defer import Observer, Scope, deferring
from wsgi_defer import defer as defer_call
from wsgi_defer._caches import lock
from wsgi_defer._caches.lock import take_lock
from wsgi_defer._caches.store import PlainStore
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._runtime import machine_lock
from wsgi_defer.testing import captured, strict

from ...helpers.orders import handle_abort


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory for temporary files of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def now(monkeypatch):
    """The clock of the machine, as a list of one time."""
    now = [1000.0]
    for module in (machine_lock, lock):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


class RemoteCache(SimpleCache):
    """It serves many machines, as far as its name tells."""


class Skips(Observer):
    """Why calls were skipped."""

    def __init__(self):
        self.why = []

    def skipped(self, call, scope, why):
        self.why.append(why)


def run(fn, *args, name="prices", seconds=30, lock=None):
    """Defer it in a scope of its own; returns its call, and why it was skipped."""
    skips = Skips()
    with deferring(observers=[skips]):
        call = defer_call(fn, *args).once_for(name, seconds, lock=lock)
    return call, skips.why


def test_it_runs_once(ran, now):
    """In so many seconds, whoever asks; then again. Other names do not count."""
    assert run(ran.append, 1)[0].done()
    now[0] += 29
    call, why = run(ran.append, 2)
    assert call.cancelled()
    assert why == ["'prices' has run, and is kept for 1.0 s"]
    run(ran.append, 3, name="users")
    now[0] += 2
    run(ran.append, 4)
    assert ran == [1, 3, 4]


def test_while_it_runs_no_other_does(ran):
    """Not even one that is deferred by the call itself."""

    def outer():
        assert run(ran.append, 2)[1] == ["'prices' runs elsewhere"]
        ran.append(1)

    run(outer)
    assert ran == [1]


def test_a_failure_does_not_count(ran, caplog):
    """The next one tries again."""
    assert isinstance(run(int, "no number")[0].exception(), ValueError)
    run(ran.append, 1)
    assert ran == [1]
    [record] = caplog.records
    assert "call builtins.int failed" in record.message


def test_neither_does_a_call_that_was_stopped(ran):
    """Which is lost."""
    with pytest.raises(SystemExit):
        run(handle_abort)
    run(ran.append, 1)
    assert ran == [1]


def test_a_call_that_does_not_run_claims_nothing(ran):
    """It is asked last, after all other conditions."""
    with deferring():
        defer_call(ran.append, 1).once_for("prices", 30).on_failure()
        defer_call(ran.append, 2).once_for("prices", 30).cancel()
        defer_call(ran.append, 3).once_for("prices", 30)
    assert ran == [3]


def test_one_that_is_cancelled_and_then_asked_for(ran):
    """Its result is that of a cancelled call."""
    with deferring():
        call = defer_call(ran.append, 1).once_for("prices", 30)
        call.cancel()
        assert call.cancelled()
        with pytest.raises(Exception, match=r"^$"):
            call.result()
        assert defer_call(len, "ab").once_for("prices", 30).result() == 2
    assert ran == []


def test_what_follows_a_skipped_call_does_not_run(ran):
    """As with any other reason."""
    run(ran.append, 1)
    with deferring():
        defer_call(ran.append, 2).once_for("prices", 30).then(ran.append)
    assert ran == [1]


def test_a_name_is_printed_on_one_line(caplog, now):
    """It may come from a user."""
    caplog.set_level(logging.DEBUG)
    run(len, "a", name="a\nb")
    run(len, "a", name="a\nb")
    assert "skipped: 'a\\nb' has run, and is kept for 30.0 s" in caplog.text


def test_seconds_are_more_than_none():
    """Otherwise it would run at once, and always."""
    with deferring(), pytest.raises(ValueError, match="more than 0, not 0"):
        defer_call(len, "a").once_for("prices", 0)


def test_an_unknown_lock():
    """It says which ones there are."""
    with deferring(), pytest.raises(TypeError, match=r"redis-py \(not its asyncio"):
        defer_call(len, "a").once_for("prices", 30, lock=object())


def test_a_directory_that_cannot_be_used(caplog, ran):
    """The call has failed, and the next one runs."""
    os.mkdir(f"{tempfile.tempdir}/wsgi_defer-{os.geteuid()}", 0o755)
    with deferring():
        call = defer_call(ran.append, 1).once_for("prices", 30)
        defer_call(ran.append, 2)
    assert isinstance(call.exception(), PermissionError)
    assert ran == [2]
    assert "set TMPDIR" in caplog.text


def test_an_order_to_stop_while_it_claims(ran):
    """It goes up, and the call is lost."""

    class Stopped(RemoteCache):
        def add(self, *args):
            handle_abort()

    skips = Skips()
    with pytest.raises(SystemExit), deferring(observers=[skips]) as scope:
        defer_call(ran.append, 1).once_for("prices", 30, lock=Stopped())
    assert (ran, scope.lost, skips.why) == ([], 1, [])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Calls of another machine, as far as files tell."""

    def on_other_machine(fn, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
            return fn(*args, **kwargs)

    (tmp_path / "other").mkdir()
    return on_other_machine


def test_a_cache_makes_it_the_cluster(ran, elsewhere):
    """By a cache that both have."""
    cache = RemoteCache()
    run(ran.append, 1, lock=cache)
    [why] = elsewhere(run, ran.append, 2, lock=cache)[1]
    assert why.startswith("'prices' has run, and is kept for ")
    assert elsewhere(run, ran.append, 3)[1] == []  # another machine, without it
    assert ran == [1, 3]


def test_one_at_a_time_in_the_cluster(ran, elsewhere):
    """Another machine has the lock in the cache."""
    cache = RemoteCache()

    def outer():
        assert elsewhere(run, len, "a", lock=cache)[1] == ["'prices' runs elsewhere"]
        ran.append(1)

    run(outer, lock=cache)
    assert ran == [1]


def test_a_holder_that_died_here(ran):
    """The next one on this machine takes over; the lock in the cache is still there."""
    cache = RemoteCache()
    key = "wsgi_defer:once:prices"
    held = take_lock(key, PlainStore(cache), f"{key}:lock")
    held._machine._close()  # as the kernel does
    assert cache.get(f"{key}:lock")
    run(ran.append, 1, lock=cache)
    assert ran == [1]
    assert cache.get(f"{key}:lock") is None


def test_a_cache_that_is_down(ran, caplog):
    """Before the call, that has failed; after it, the log says so."""

    class Down(RemoteCache):
        down = ""

        def __getattribute__(self, name):
            if name == RemoteCache.__getattribute__(self, "down"):
                raise OSError("cache is down")
            return super().__getattribute__(name)

    def but_for(name):
        cache = Down()
        cache.down = name
        return cache

    for name in ("add", "get"):
        call, _ = run(ran.append, 1, lock=but_for(name))
        assert str(call.exception()) == "cache is down"
    run(ran.append, 2, lock=but_for("set"))
    assert caplog.messages[-1] == (
        "the run of the deferred call list.append could not be noted"
    )
    run(ran.append, 3, lock=but_for("delete"), name="users")
    assert caplog.messages[-1] == "a lock could not be given back; it frees itself"
    assert ran == [2, 3]


def test_a_lock_that_could_not_be_given_back(ran, caplog):
    """Others on this machine take it over."""

    class Down(RemoteCache):
        delete = None

    cache = Down()
    run(int, "no number", lock=cache)
    assert cache.get("wsgi_defer:once:prices:lock")
    run(ran.append, 1, lock=cache)
    assert ran == [1]


def test_a_cache_that_keeps_nothing(ran):
    """It holds nobody up; the machine does."""
    run(ran.append, 1, lock=NullCache())
    run(ran.append, 2, lock=NullCache())
    assert ran == [1]


@pytest.mark.parametrize("block", [captured, strict])
def test_each_block_of_a_test_begins_anew(ran, block):
    """What ran before it does not count, and nothing in it does after it."""
    run(ran.append, 1)
    for number in (2, 3):
        with block() as calls:
            run(ran.append, number)
            if block is captured:
                calls.run()
            run(ran.append, 0)
    assert ran == [1, 2, 3]
    run(ran.append, 4)
    assert ran == [1, 2, 3]


def test_captured_claims_nothing(ran):
    """The call did not run."""
    with captured() as calls:
        run(ran.append, 1)
        run(ran.append, 2)
        assert len(calls) == 2
        calls.run()
    assert ran == [1]


def test_without_a_scope_of_a_request():
    """The option belongs to the call."""
    scope = Scope()
    token = enter(scope)
    call = defer_call(len, "a").once_for("prices", 30)
    leave(token)
    assert call.once is not None
    scope.lose_rest("the test ends")
