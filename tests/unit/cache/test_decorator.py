"""``@flexible_cache``: a function whose results are cached, by its arguments."""

from __future__ import annotations

import enum
import tempfile
import time

import pytest
from cachelib import SimpleCache

from wsgi_defer import deferring
from wsgi_defer.cache import flexible_cache


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


def test_a_value_for_each_set_of_arguments(cache, ran):
    """It is computed once; the function keeps its name and its docstring."""

    @flexible_cache(cache, fresh=5, stale=60)
    def prices(region, *, currency="EUR"):
        """What things cost."""
        ran.append((region, currency))
        return len(ran)

    assert [prices("eu"), prices("us"), prices("eu", currency="SEK")] == [1, 2, 3]
    assert [prices("eu"), prices("us"), prices("eu", currency="SEK")] == [1, 2, 3]
    assert prices.__name__ == "prices"
    assert prices.__doc__ == "What things cost."
    assert cache.delete(prices.key("us"))
    assert [prices("eu"), prices("us")] == [1, 4]


def test_it_is_renewed_after_the_response(cache, ran):
    """With the same arguments, and named by the function."""

    @flexible_cache(cache, fresh=5, stale=60, on_refresh=ran.append)
    def prices(region, *, currency):
        return region + currency

    key = prices.key("eu", currency="SEK")
    cache.set(key, ("wsgi_defer", time.time() - 30, "old"))
    with deferring():
        assert prices("eu", currency="SEK") == "old"
    assert prices("eu", currency="SEK") == "euSEK"
    [call] = ran
    assert call.label == f"{__name__}.{prices.__qualname__}"
    assert __file__ in call.origin


EACH = [
    (), (1,), (1.0,), (True,), ("1",), (b"1",), (None,), ("None",), ((),), ((1,),),
    (1, 2), ((1, 2),), ("",), ("a\udc80",), (-0.0,), (0.0,), (0,), (False,),
]  # fmt: skip


def test_keys_differ(cache):
    """As do the arguments, by their type, too; and they hide what is in them."""

    @flexible_cache(cache, fresh=5, stale=60)
    def prices(*args, **kwargs):
        """Not called."""

    keys = {prices.key(*args) for args in EACH}
    keys |= {prices.key(a=1), prices.key(b=1), prices.key(a=1, b=2)}
    assert len(keys) == len(EACH) + 3
    assert prices.key(b=2, a=1) == prices.key(a=1, b=2)
    assert "secret" not in prices.key("secret")
    assert all(key.isprintable() and len(key) < 150 for key in keys)


class Colour(enum.IntEnum):
    """A number, and yet more than that."""

    RED = 1


@pytest.mark.parametrize(
    "value", [object(), [1], {"a": 1}, Colour.RED, (1, [2]), {1}, 1j]
)
def test_arguments_of_which_no_key_can_be_made(cache, value):
    """The error says what to do, and shows no argument."""

    @flexible_cache(cache, fresh=5, stale=60)
    def prices(*args, **kwargs):
        """Not called."""

    for call in (lambda: prices(value), lambda: prices(a=value)):
        with pytest.raises(TypeError, match="of which no key can be made") as raised:
            call()
        assert "key=lambda" in str(raised.value)
        assert repr(value) not in str(raised.value).replace("key=lambda", "")


def test_a_key_of_your_own(cache):
    """For methods, and for arguments that no key can be made of."""

    class Shop:
        """With a number."""

        def __init__(self, number):
            self.number = number

        @flexible_cache(
            cache, fresh=5, stale=60, key=lambda shop, day: f"shop {shop.number} {day}"
        )
        def sales(self, day):
            """Sales of a day."""
            return f"{day} of {self.number}"

    assert Shop(1).sales("monday") == "monday of 1"
    assert Shop(2).sales("monday") == "monday of 2"
    assert Shop.sales.key(Shop(2), "monday") == "shop 2 monday"
    assert cache.get("shop 2 monday")[2] == "monday of 2"


def test_what_it_refuses(cache):
    """At once, where the function is made."""
    with pytest.raises(ValueError, match="fresh < stale"):
        flexible_cache(cache, fresh=60, stale=5)

    async def load():
        """Not called."""

    with pytest.raises(TypeError, match=r"load is a coroutine function.*flexible\(\)"):
        flexible_cache(cache, fresh=5, stale=60)(load)
    with pytest.raises(TypeError, match="cannot be called"):
        flexible_cache(cache, fresh=5, stale=60)("load")
