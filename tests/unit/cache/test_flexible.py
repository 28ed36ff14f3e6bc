"""``flexible()``: a cached value that is renewed after the response.

The first twelve are Laravel's own tests of ``Cache::flexible()``, by their number.
"""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cachelib import FileSystemCache, NullCache, SimpleCache

from wsgi_defer import DeferMiddleware, DeferredCall, defer, deferring
from wsgi_defer._caches.lock import Lock
from wsgi_defer._runtime.machine_lock import MachineLock
from wsgi_defer.cache import _cached, flexible
from wsgi_defer.cache._cached import Cached
from wsgi_defer.testing import captured, eager

from ...helpers.client import get, text_app
from ...helpers.waiting import PATIENCE, until

FRESH, STALE = 5, 60
OLD = 30


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory for temporary files of their own; and values get no older by
    themselves, however slow this machine is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.fixture
def cache():
    """One that is used in this process alone."""
    return SimpleCache()


class Source:
    """What computes values: 1, 2, 3 ..."""

    def __init__(self):
        self.calls = 0

    def load(self, *args):
        """The next value, with its arguments."""
        self.calls += 1
        return (self.calls, *args)


@pytest.fixture
def source():
    """Where values come from."""
    return Source()


def store(cache, value, age=0.0, key="prices"):
    """Put a value there that was made so many seconds ago."""
    cache.set(key, ("wsgi_defer", time.time() - age, value), STALE)


def stored(cache, key="prices"):
    """The value that is there, and how old it is."""
    _, made, value = cache.get(key)
    return value, time.time() - made


def ask(cache, source, *args, **options):
    """As most of these tests do."""
    return flexible(cache, "prices", FRESH, STALE, source.load, *args, **options)


def names(scope):
    """The calls that wait."""
    return [call.label.rpartition(".")[2] for call in scope.pending]


@pytest.mark.promise("L36")
def test_nothing_there(cache, source):
    """It is computed in the view, and nothing is deferred."""
    with deferring() as scope:
        assert ask(cache, source, "eu") == (1, "eu")
        assert scope.registered == 0
    assert stored(cache)[0] == (1, "eu")


@pytest.mark.promise("L37")
def test_fresh(cache, source):
    """It is returned, and nothing is deferred."""
    store(cache, "fresh", FRESH - 1)
    with deferring() as scope:
        assert ask(cache, source) == "fresh"
        assert scope.registered == 0
    assert source.calls == 0


@pytest.mark.promise("L38")
def test_stale(cache, source):
    """It is returned, and one refresh is deferred."""
    store(cache, "old", OLD)
    with deferring() as scope:
        assert ask(cache, source) == "old"
        assert names(scope) == ["load"]
        assert source.calls == 0
    assert source.calls == 1


@pytest.mark.promise("L39")
def test_stale_and_asked_for_twice(cache, source):
    """In the same request, one refresh is enough."""
    store(cache, "old", OLD)
    with deferring() as scope:
        assert [ask(cache, source), ask(cache, source)] == ["old", "old"]
        assert names(scope) == ["load"]
    assert source.calls == 1


@pytest.mark.promise("L40")
def test_renewed(cache, source):
    """After the response, the value and its time are new."""
    store(cache, "old", OLD)
    with deferring():
        ask(cache, source, "eu")
        assert stored(cache)[1] > FRESH
    value, age = stored(cache)
    assert value == (1, "eu")
    assert age < FRESH


@pytest.mark.promise("L41")
def test_too_old(cache, source):
    """It is computed in the view, as if there was none."""
    store(cache, "too old", STALE + 1)
    with deferring() as scope:
        assert ask(cache, source) == (1,)
        assert scope.registered == 0


@pytest.mark.promise("L42")
def test_renewed_elsewhere_at_the_same_time(cache, source):
    """Another process has the lock: the refresh does nothing."""
    store(cache, "old", OLD)
    lock = Cached(cache, "prices", STALE, 0).lock()
    with deferring() as scope:
        assert ask(cache, source) == "old"
    lock.free()
    assert (source.calls, scope.skipped) == (0, 1)
    assert stored(cache)[0] == "old"


@pytest.mark.promise("L43")
def test_renewed_elsewhere_meanwhile(cache, source):
    """Its time has changed since this request has read it: the refresh does nothing."""
    store(cache, "old", OLD)
    with deferring() as scope:
        assert ask(cache, source) == "old"
        store(cache, "new", 1)
    assert (source.calls, scope.skipped) == (0, 1)
    assert stored(cache)[0] == "new"


@pytest.mark.promise("L44")
@pytest.mark.parametrize(
    ("status", "on_refresh", "runs"),
    [
        (200, None, 1),
        (500, None, 0),
        (500, DeferredCall.always, 1),
        (200, DeferredCall.on_failure, 0),
    ],
)
def test_after_which_responses(cache, source, status, on_refresh, runs):
    """After a success, unless the options of the call say otherwise."""
    store(cache, "old", OLD)

    def view():
        assert ask(cache, source, on_refresh=on_refresh) == "old"

    get(DeferMiddleware(text_app(view, status=f"{status} Said")))
    assert source.calls == runs


@pytest.mark.promise("L45")
def test_the_same_key_in_two_caches(source):
    """Two refreshes."""
    caches = SimpleCache(), SimpleCache()
    for cache in caches:
        store(cache, "old", OLD)
    with deferring() as scope:
        assert [ask(cache, source) for cache in caches] == ["old", "old"]
        assert names(scope) == ["load", "load"]
    assert [stored(cache)[0] for cache in caches] == [(1,), (2,)]


class NoLocks(SimpleCache):
    """It serves many machines, as far as its name tells, and fails to lock."""

    def add(self, *args):
        raise NotImplementedError("no locks here")


@pytest.mark.promise("L46")
def test_a_cache_without_locks(source, caplog):
    """The error is reported, and no user gets it."""
    cache = NoLocks()
    with deferring():
        assert ask(cache, source) == (1,)
    [record] = caplog.records
    assert record.message.startswith("no lock for ")
    store(cache, "old", OLD)
    with deferring() as scope:
        assert ask(cache, source) == "old"
    assert (source.calls, scope.failed) == (1, 1)
    assert caplog.text.count("NotImplementedError: no locks here") == 2


@pytest.mark.promise("L47")
@pytest.mark.parametrize("stray", [None, 3, ("wsgi_defer", 1.0), ["other", 1, 2]])
def test_forgotten(cache, source, stray):
    """It is computed anew, whatever is left there."""
    store(cache, "old", OLD)
    cache.delete("prices")
    cache.set("prices", stray)
    with deferring() as scope:
        assert ask(cache, source) == (1,)
        assert scope.registered == 0


def test_the_value_may_be_none(cache):
    """That is a value, too."""
    calls = []
    for _ in range(2):
        assert flexible(cache, "prices", FRESH, STALE, calls.append, 1) is None
    assert calls == [1]


def test_forgotten_meanwhile(cache, source):
    """It stays forgotten: the next request computes it."""
    store(cache, "old", OLD)
    with deferring() as scope:
        ask(cache, source)
        cache.delete("prices")
    assert (source.calls, scope.skipped) == (0, 1)


def test_too_old_meanwhile(cache, source, monkeypatch):
    """It is still renewed."""
    store(cache, "old", OLD)
    with deferring():
        ask(cache, source)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 100)
        cache.delete("prices")  # as it does itself, with another clock
    assert source.calls == 1


def test_a_refresh_that_fails(cache, caplog):
    """The old value stays, and the next request tries again."""
    store(cache, "old", OLD)
    for _ in range(2):
        with deferring() as scope:
            assert flexible(cache, "prices", FRESH, STALE, int, "none") == "old"
        assert scope.failed == 1
    assert stored(cache)[0] == "old"
    assert len(caplog.records) == 2


def test_a_cache_that_is_full(cache, source):
    """What cannot be stored is a failure, too."""
    store(cache, "old", OLD)
    cache.set = None
    with deferring() as scope:
        assert ask(cache, source) == "old"
    assert scope.failed == 1


def test_a_view_that_computes_and_fails(cache):
    """It gets the error, and the lock is given back."""
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            flexible(cache, "prices", FRESH, STALE, int, "none")


def test_too_many_calls(cache, source):
    """The request takes no more, but it has its value."""
    store(cache, "old", OLD)
    with deferring(max_calls=1):
        defer(len, "a")
        assert ask(cache, source) == "old"
    assert source.calls == 0


def test_a_request_that_has_ended(cache, source):
    """It is as none: the value is renewed at once."""
    store(cache, "old", OLD)
    with deferring() as scope:
        scope.closed = True
        assert ask(cache, source) == (1,)
        scope.closed = False


def test_outside_a_request(cache, source, caplog):
    """A stale value is renewed at once; if that fails, it is returned after all."""
    assert ask(cache, source) == (1,)
    store(cache, "old", OLD)
    assert ask(cache, source) == (2,)
    store(cache, "old", OLD)
    assert flexible(cache, "prices", FRESH, STALE, int, "none") == "old"
    assert caplog.messages == ["builtins.int failed to renew a cached value"]


def test_outside_a_request_while_another_renews_it(cache, source):
    """The old value will do."""
    store(cache, "old", OLD)
    lock = Cached(cache, "prices", STALE, 0).lock()
    assert ask(cache, source) == "old"
    lock.free()
    assert source.calls == 0


def test_outside_a_request_when_another_has_renewed_it(cache, source, monkeypatch):
    """A moment ago: that value will do."""
    store(cache, "old", OLD)
    take = Cached.lock

    def lock(self):
        store(cache, "new")
        return take(self)

    monkeypatch.setattr(Cached, "lock", lock)
    assert ask(cache, source) == "new"
    assert source.calls == 0


def test_a_coroutine_function(cache):
    """It is run to its end, here and after the response."""

    async def load():
        return "loaded"

    assert flexible(cache, "prices", FRESH, STALE, load) == "loaded"
    store(cache, "old", OLD)
    with deferring():
        assert flexible(cache, "prices", FRESH, STALE, load) == "old"
    assert stored(cache)[0] == "loaded"


@pytest.mark.parametrize("ahead", [1, OLD, STALE + 1])
def test_a_clock_that_differs(cache, source, ahead):
    """What comes from the future is as good as what is as far in the past."""
    store(cache, "ahead", -ahead)
    with deferring() as scope:
        value = ask(cache, source)
        assert (value, scope.registered) == {
            1: ("ahead", 0), OLD: ("ahead", 1), STALE + 1: ((1,), 0)
        }[ahead]  # fmt: skip


@pytest.mark.parametrize(("fresh", "stale"), [(-1, 5), (5, 5), (6, 5), (0, 0)])
def test_wrong_ages(cache, fresh, stale):
    """They are refused at once."""
    with pytest.raises(ValueError, match="0 <= fresh < stale, not"):
        flexible(cache, "prices", fresh, stale, len, "a")


def test_what_cannot_be_called(cache):
    """Neither can a generator function."""
    with pytest.raises(TypeError, match=r"as in flexible\(cache"):
        flexible(cache, "prices", FRESH, STALE, "load")

    def generate():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        flexible(cache, "prices", FRESH, STALE, generate)


def test_an_unknown_cache():
    """It is named by its type."""
    with pytest.raises(TypeError, match="not dict"):
        flexible({}, "prices", FRESH, STALE, len, "a")


def test_a_cache_that_keeps_nothing(source):
    """Nobody waits for somebody else."""
    lock = Cached(SimpleCache(), "prices", STALE, 0).lock()
    assert [ask(NullCache(), source), ask(NullCache(), source)] == [(1,), (2,)]
    lock.free()


def test_in_tests_it_is_a_call_of_that_function(cache, source):
    """It is captured like any other."""
    store(cache, "old", OLD)
    with captured() as calls:
        with deferring():
            ask(cache, source, "eu")
        calls.assert_deferred(source.load, "eu", times=1)
        assert source.calls == 0
        calls.run()
    assert stored(cache)[0] == (1, "eu")


def test_eager(cache, source):
    """It is renewed inside of flexible(), which returns the old value all the same."""
    store(cache, "old", OLD)
    with eager(), deferring():
        assert ask(cache, source) == "old"
        assert stored(cache)[0] == (1,)


def test_a_result_that_the_view_needs_after_all(cache, source):
    """The refresh runs early, once."""
    store(cache, "old", OLD)
    with deferring():
        calls = []
        ask(cache, source, on_refresh=calls.append)
        assert calls[0].result() == (1,)
    assert source.calls == 1


def test_a_refresh_needs_no_other_name(cache, source):
    """It would lose its lock."""
    store(cache, "old", OLD)
    with deferring(), pytest.raises(TypeError, match="runs one at a time as it is"):
        ask(cache, source, on_refresh=lambda call: call.once_for("prices", 30))


def test_the_same_key_in_another_directory(tmp_path):
    """Two deployments of an app do not wait for each other."""
    first, second = (
        Cached(FileSystemCache(str(tmp_path / name)), "prices", STALE, 0).lock()
        for name in ("staging", "production")
    )
    assert second is not None
    first.free()
    second.free()


def test_a_refresh_that_is_cancelled(cache, source):
    """It does not run, and leaves no lock."""
    store(cache, "old", OLD)
    with deferring() as scope:
        assert ask(cache, source, on_refresh=DeferredCall.cancel) == "old"
        assert ask(cache, source, on_refresh=DeferredCall.cancel) == "old"
    assert (scope.skipped, source.calls) == (1, 0)


@pytest.fixture(params=["threads of a process", "processes of a machine"])
def shared(request, tmp_path):
    """Caches that threads share, as processes do by their files."""
    if request.param.startswith("threads"):
        cache = SimpleCache()
        return lambda: cache
    return lambda: FileSystemCache(str(tmp_path / "cache"), threshold=0)


def test_of_many_at_once_one_computes(shared):
    """The others wait for its value."""
    first, may_end, waiting = threading.Event(), threading.Event(), []

    def load():
        first.set()
        assert may_end.wait(PATIENCE)
        return "loaded"

    def ask():
        waiting.append(1)
        return flexible(
            shared(), "prices", FRESH, STALE, load, wait=10 * PATIENCE
        )  # fmt: skip

    with ThreadPoolExecutor(20) as threads:
        try:
            found = [threads.submit(ask) for _ in range(20)]
            assert first.wait(PATIENCE)
            until(lambda: len(waiting) == 20)
            assert not any(each.done() for each in found)
            first.clear()
        finally:
            may_end.set()
        assert {each.result() for each in found} == {"loaded"}
    assert not first.is_set()


def test_nobody_waits_for_ever(cache, source):
    """After so many seconds, each computes by itself."""
    lock = Cached(cache, "prices", STALE, 0).lock()
    assert ask(cache, source, wait=0.02) == (1,)
    lock.free()


def test_one_that_fails_is_followed_by_the_next(cache, source, monkeypatch):
    """They do not all compute at the same time."""
    lock = Cached(cache, "prices", STALE, 0).lock()
    monkeypatch.setattr(_cached.time, "sleep", lambda seconds: lock.free())
    assert ask(cache, source) == (1,)
    assert source.calls == 1


def test_somebody_was_quicker(cache, source, monkeypatch):
    """There is a value by the time that we have the lock."""
    take = Cached.lock

    def lock(self):
        store(cache, "new")
        return take(self)

    monkeypatch.setattr(Cached, "lock", lock)
    assert ask(cache, source) == "new"
    assert source.calls == 0


def test_a_failure_between_the_lock_and_the_refresh(cache, source, monkeypatch):
    """The cache goes down: the call has failed, and the lock is given back."""
    store(cache, "old", OLD)
    with deferring() as scope:
        ask(cache, source)
        monkeypatch.setattr(cache, "get", None)
    monkeypatch.undo()
    assert (scope.failed, source.calls) == (1, 0)
    lock = Cached(cache, "prices", STALE, 0).lock()
    assert isinstance(lock, Lock)
    lock.free()


def test_no_lock_is_left(cache, source, tmp_path):
    """Not even a file: keys are many."""
    store(cache, "old", OLD)
    with deferring():
        ask(cache, source)
    flexible(cache, "users", FRESH, STALE, source.load)
    assert [*tmp_path.glob("wsgi_defer-*/*")] == []
    assert MachineLock.take("any") is not None
