"""``wsgi_defer.cache`` and ``once_for()`` with a real Redis, in the ways it is used."""

from __future__ import annotations

import pickle
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cachelib import RedisCache as CachelibRedis
from django.core.cache import CacheHandler
from dogpile.cache import make_region

from wsgi_defer import defer, deferring
from wsgi_defer._caches.kinds import kind_of
from wsgi_defer._caches.lock import take_lock
from wsgi_defer._caches.store import Entry
from wsgi_defer.cache import RedisStore, flexible

from ..helpers.waiting import PATIENCE, until
from .services import Redis

redis = pytest.importorskip("redis")
FRESH, STALE, OLD = 5, 60, 30


@pytest.fixture(scope="module")
def server():
    """A server for these tests."""
    Redis.skip_unless_installed()
    server = Redis()
    yield server
    server.close()


@pytest.fixture
def client(server):
    """A client of an empty database."""
    with redis.Redis(server.host, server.port) as client:
        client.flushdb()
        yield client


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory for temporary files of their own; and values get no older by
    themselves, however slow this machine is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.fixture
def on_another_machine(tmp_path, monkeypatch):
    """What comes after it has other files."""

    def move():
        (tmp_path / "other").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))

    return move


@pytest.fixture(params=["redis", "decoded", "pickled", "cachelib", "django", "dogpile"])
def cache(request, client, server):
    """That server, through each library."""
    if request.param == "redis":
        yield client
    elif request.param == "decoded":
        with redis.Redis(server.host, server.port, decode_responses=True) as decoded:
            yield decoded
    elif request.param == "pickled":
        yield RedisStore(client, dumps=pickle.dumps, loads=pickle.loads)
    elif request.param == "cachelib":
        yield CachelibRedis(client)
    elif request.param == "django":
        backend = "django.core.cache.backends.redis.RedisCache"
        caches = CacheHandler({"default": {"BACKEND": backend, "LOCATION": server.url}})
        yield caches["default"]
        caches["default"]._cache.get_client().connection_pool.disconnect()
    else:
        arguments = {
            "url": server.url, "distributed_lock": True, "lock_timeout": 30,
            "thread_local_lock": False,
        }  # fmt: skip
        region = make_region().configure("dogpile.cache.redis", arguments=arguments)
        yield region
        region.backend.writer_client.close()


def test_a_value_lives(cache):
    """It is computed, is fresh, is stale and renewed; no lock is left."""
    calls = []

    def load():
        calls.append(1)
        return {"n": len(calls)}

    def ask():
        with deferring():
            return flexible(cache, "prices", FRESH, STALE, load)

    first, second = {"n": 1}, {"n": 2}
    assert [ask(), ask()] == [first, first]
    store = kind_of(cache).store
    store.set("prices", Entry(time.time() - OLD, first), STALE)
    assert [ask(), ask(), len(calls)] == [first, second, 2]
    unlock = store.lock("prices:lock", "mine", 30)
    assert store.lock("prices:lock", "yours", 30) is None
    unlock()


def test_another_machine_renews_it(cache):
    """It has the lock in the cache: the refresh does nothing."""
    store = kind_of(cache).store
    store.set("prices", Entry(time.time() - OLD, "old"), STALE)
    elsewhere = take_lock("another machine", store, "prices:lock")
    with deferring() as scope:
        assert flexible(cache, "prices", FRESH, STALE, len, "ab") == "old"
    elsewhere.free()
    assert scope.skipped == 1
    with deferring():
        assert flexible(cache, "prices", FRESH, STALE, len, "ab") == "old"
    assert flexible(cache, "prices", FRESH, STALE, len, "abc") == 2


def test_once_in_the_cluster(cache, ran, on_another_machine):
    """Another machine has run that name, as far as the cache tells."""
    with deferring() as scope:
        defer(ran.append, 1).once_for("prices", 30, lock=cache)
    assert (ran, scope.finished) == ([1], 1)
    on_another_machine()
    with deferring() as scope:
        defer(ran.append, 2).once_for("prices", 30, lock=cache)
    assert (ran, scope.skipped) == ([1], 1)


def test_locks_of_redis_end(client):
    """By themselves, if their machine dies; and none deletes that of another."""
    store = RedisStore(client)
    unlock = store.lock("prices:lock", "mine", 30)
    assert 0 < client.pttl("prices:lock") <= 30_000
    assert store.lock("prices:lock", "mine", 60) is not None  # taken over
    assert client.pttl("prices:lock") > 30_000
    client.set("prices:lock", "yours")
    unlock()
    assert client.get("prices:lock") == b"yours"


def test_values_end(client):
    """When they are too old, and not before."""
    flexible(client, "prices", FRESH, STALE, len, "a")
    assert STALE * 1000 - 10_000 < client.pttl("prices") <= STALE * 1000


def test_of_fifty_at_once_on_two_machines_one_computes(client, on_another_machine):
    """The others wait for its value, with the lock in Redis alone."""
    first, may_end, waiting = threading.Event(), threading.Event(), []

    def load():
        first.set()
        assert may_end.wait(PATIENCE)
        return "loaded"

    def ask():
        waiting.append(1)
        return flexible(client, "prices", FRESH, STALE, load, wait=10 * PATIENCE)

    with ThreadPoolExecutor(50) as threads:
        try:
            found = [threads.submit(ask)]
            assert first.wait(PATIENCE)
            first.clear()
            found += [threads.submit(ask) for _ in range(9)]
            until(lambda: len(waiting) == 10)
            on_another_machine()
            found += [threads.submit(ask) for _ in range(40)]
            until(lambda: len(waiting) == 50)
            assert not any(each.done() for each in found)
        finally:
            may_end.set()
        assert {each.result() for each in found} == {"loaded"}
    assert not first.is_set()
