"""Each kind of cache, with its own library. Those that need a server: tests/engines."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from cachelib import FileSystemCache, NullCache, RedisCache, SimpleCache
from django.core.cache import CacheHandler
from django.utils.connection import ConnectionProxy
from dogpile.cache import make_region
from flask import Flask
from flask_caching import Cache as FlaskCaching

from wsgi_defer import deferring
from wsgi_defer._caches.kinds import kind_of
from wsgi_defer._caches.store import Entry, RedisStore
from wsgi_defer.cache import flexible

FRESH, STALE, OLD = 5, 60, 30


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory for temporary files of their own; and values get no older by
    themselves, however slow this machine is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


def django(backend, location):
    """The cache of a project, as views import it."""
    backend = f"django.core.cache.backends.{backend}"
    handler = CacheHandler({"default": {"BACKEND": backend, "LOCATION": location}})
    return ConnectionProxy(handler, "default")


def dogpile(backend, **arguments):
    """A region, whose own time-out is not asked."""
    region = make_region(key_mangler=lambda key: f"mangled {key}")
    return region.configure(
        f"dogpile.cache.{backend}", expiration_time=1, arguments=arguments
    )


@contextmanager
def flask(kind, **config):
    """That of an app, which is current."""
    app = Flask(__name__)
    cache = FlaskCaching(config={"CACHE_TYPE": kind, **config})
    cache.init_app(app)
    with app.app_context():
        yield cache


@pytest.fixture(
    params=[
        "cachelib", "cachelib files", "django", "django files", "django itself",
        "dogpile", "dogpile files", "flask", "flask files",
    ]
)  # fmt: skip
def cache(request, tmp_path):
    """Caches that keep something."""
    folder = str(tmp_path / "cache")
    if request.param.startswith("flask"):
        kind, options = "SimpleCache", {}
        if request.param.endswith("files"):
            kind, options = "FileSystemCache", {"CACHE_DIR": folder}
        with flask(kind, **options) as cache:
            yield cache
        return
    yield {
        "cachelib": SimpleCache,
        "cachelib files": lambda: FileSystemCache(folder),
        "django": lambda: django("locmem.LocMemCache", folder),
        "django files": lambda: django("filebased.FileBasedCache", folder),
        "django itself": lambda: django("locmem.LocMemCache", folder)._connections[
            "default"
        ],
        "dogpile": lambda: dogpile("memory"),
        "dogpile files": lambda: dogpile("dbm", filename=folder),
    }[request.param]()


def test_a_value_lives(cache):
    """It is computed, is fresh, is stale and renewed, and is forgotten."""
    calls = []

    def load():
        calls.append(1)
        return {"a": (len(calls), None)}

    def ask():
        with deferring():
            return flexible(cache, "prices", FRESH, STALE, load)

    first, second = {"a": (1, None)}, {"a": (2, None)}
    assert [ask(), ask()] == [first, first]
    kind_of(cache).store.set("prices", Entry(time.time() - OLD, first), STALE)
    assert [ask(), ask(), len(calls)] == [first, second, 2]
    cache.delete("prices")
    assert ask() == {"a": (3, None)}


def test_a_lock(cache):
    """One has it; whoever knows its token takes it over; it is given back."""
    store = kind_of(cache).store
    unlock = store.lock("prices:lock", "mine", 30)
    has_locks = not hasattr(cache, "region_invalidator")  # dogpile's need no token
    if has_locks:
        assert store.lock("prices:lock", "yours", 30) is None
        assert store.lock("prices:lock", "mine", 30) is not None
    unlock()
    unlock = store.lock("prices:lock", "yours", 30)
    assert unlock is not None
    unlock()
    if has_locks:
        cache.set("prices:lock", "another's")
        unlock()  # it has expired, and is somebody else's now
        assert cache.get("prices:lock") == "another's"


def test_a_mutex_of_dogpile(tmp_path):
    """It is the backend's own."""
    store = kind_of(dogpile("dbm", filename=str(tmp_path / "cache"))).store
    unlock = store.lock("prices:lock", "mine", 30)
    assert store.lock("prices:lock", "mine", 30) is None
    unlock()
    unlock = store.lock("prices:lock", "mine", 30)
    unlock()


def test_who_shares_it(cache):
    """Locks of processes and machines are those of the file system."""
    kind = kind_of(cache)
    assert kind.shared is None
    assert kind.place is not None


def test_others_are_shared_by_machines():
    """They have locks themselves."""

    class RemoteCache(SimpleCache):
        pass

    kind = kind_of(RemoteCache())
    assert kind.shared is kind.store
    assert kind.place.startswith("RemoteCache ")


@pytest.mark.parametrize("name", ["cachelib", "django", "dogpile", "flask"])
def test_those_that_keep_nothing(name):
    """Every request computes the value."""
    with flask("NullCache") as of_flask:
        cache = {
            "cachelib": NullCache(),
            "django": django("dummy.DummyCache", ""),
            "dogpile": dogpile("null"),
            "flask": of_flask,
        }[name]
        assert kind_of(cache).place is None
        calls = []
        for _ in range(2):
            flexible(cache, "prices", FRESH, STALE, calls.append, 1)
        assert calls == [1, 1]


def test_a_client_of_redis():
    """By its class, or with a format of its own. The asyncio client is refused."""
    redis = pytest.importorskip("redis")
    kind = kind_of(redis.Redis())
    assert isinstance(kind.store, RedisStore)
    assert kind.shared is kind.store
    own = RedisStore(redis.Redis(), dumps=repr)
    assert kind_of(own).store is own
    asyncio = pytest.importorskip("redis.asyncio")
    with pytest.raises(TypeError, match="not its asyncio client"):
        kind_of(asyncio.Redis())


def test_redis_servers_and_databases_differ():
    """By cachelib, too."""
    redis = pytest.importorskip("redis")
    clients = [redis.Redis(), redis.Redis(port=1), redis.Redis(db=1)]
    clients += [redis.Redis(unix_socket_path="/a"), redis.Redis(unix_socket_path="/b")]
    assert len({kind_of(client).place for client in clients}) == 5
    assert len({kind_of(RedisCache(client)).place for client in clients}) == 5


def test_a_serializer_that_knows_no_tuples():
    """It makes a list of what is stored."""
    cache = SimpleCache()
    cache.set("prices", ["wsgi_defer", time.time(), 3])
    assert flexible(cache, "prices", FRESH, STALE, len, "a") == 3


class Redis:
    """What ``RedisStore`` sends, and what it gets."""

    def __init__(self, found=None):
        self.found = found
        self.sent = []

    def get(self, key):
        return self.found

    def set(self, key, data, **options):
        self.sent.append((key, data, options))
        self.found = data


@pytest.mark.parametrize("decoded", [False, True])
def test_the_format_in_redis(decoded):
    """A head, and JSON. What a client decodes is read, too."""
    redis = Redis()
    store = RedisStore(redis)
    value = {"a": [1, None], "é": "\n"}
    assert store.set("prices", Entry(1.5, value), 0.0015) == value
    [(key, data, options)] = redis.sent
    assert (key, options) == ("prices", {"px": 2})
    assert data == b'wsgi_defer 1.5\n{"a":[1,null],"\\u00e9":"\\n"}'
    if decoded:
        redis.found = data.decode()
    assert store.get("prices") == Entry(1.5, value)


def test_what_others_have_written_to_redis():
    """That is not read."""
    assert RedisStore(Redis(b"pickled")).get("prices") is None
    assert RedisStore(Redis(b"1")).get("prices") is None


def test_a_format_of_your_own():
    """It returns bytes."""
    redis = Redis()
    store = RedisStore(redis, dumps=lambda value: bytes(value), loads=list)
    assert store.set("prices", Entry(1.5, [1, 2]), 60) == [1, 2]
    assert store.get("prices").value == [1, 2]


def test_a_value_that_is_not_json():
    """The error says what to do, and names no value."""
    with pytest.raises(TypeError, match=r"type set is not .* RedisStore\(client"):
        RedisStore(Redis()).set("prices", Entry(1.5, {"secret"}), 60)


def test_the_first_reader_gets_what_others_get():
    """Tuples are lists for all of them, so that nobody notices only later."""
    assert RedisStore(Redis()).set("prices", Entry(1.5, (1, 2)), 60) == [1, 2]


def test_objects_of_modules_with_such_names():
    """The name has to be that of the library."""
    stranger = SimpleNamespace(get=None, set=None, add=None)
    with pytest.raises(TypeError, match="not SimpleNamespace"):
        kind_of(stranger)
