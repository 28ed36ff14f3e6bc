"""Good and bad uses, for type checkers; nothing imports this file.

A line that ends in ``# wrong`` is an error to each of them, and no other line is.
"""

# ruff: noqa: B018

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Literal

from flask import Flask
from typing_extensions import assert_type

from wsgi_defer import (
    Call,
    DeferredCall,
    Outcome,
    before_response,
    defer,
    gather,
    gunicorn,
    pool,
)
from wsgi_defer.cache import flexible, flexible_cache
from wsgi_defer.flask import Defer
from wsgi_defer.gunicorn import GeventWorker, SyncWorker, ThreadWorker
from wsgi_defer.pools import ThreadPool


def load(item: int, *, currency: str = "EUR") -> float:
    return 1.0


async def load_soon(item: int) -> float:
    return 1.0


def name() -> str:
    return ""


def with_tax(price: float) -> float:
    return price


async def as_text(price: float) -> str:
    return ""


def apologize(error: ValueError) -> bytes:
    return b""


def release() -> None: ...


def after_the_response(ran: list[int], outcome: Outcome) -> None:
    call = defer(load, 1, currency="CHF")
    assert_type(call, DeferredCall[float])
    assert_type(call.result(), float)
    assert_type(call.result(timeout=1), float)
    assert_type(call.exception(), BaseException | None)
    future: Future[float] = call
    future.add_done_callback(lambda future: future.result() + 1)
    assert_type(defer(load_soon, 1), DeferredCall[float])
    assert_type(defer(lambda: 1), DeferredCall[int])
    assert_type(defer(print, "hello"), DeferredCall[None])
    assert_type(defer(ran.append, 1), DeferredCall[None])
    assert_type(defer(load, 1).named("load").always().on_failure(), DeferredCall[float])
    assert_type(call.when(lambda outcome: outcome.delivered), DeferredCall[float])
    assert_type(call.time_limit(2.5), DeferredCall[float])
    assert_type(call.cancel(), DeferredCall[float] | Literal[False])
    assert_type(before_response(load, 1), Call)
    defer(load)  # wrong
    defer(load, "1")  # wrong
    defer(load_soon, "1")  # wrong
    defer(load, 1, money="CHF")  # wrong
    defer(1)  # wrong
    defer(load, 1).result().upper()  # wrong
    call.when(outcome)  # wrong
    call.time_limit("2")  # wrong
    before_response(load, "1")  # wrong


def chained() -> None:
    call = defer(load, 1)
    assert_type(call.then(with_tax), DeferredCall[float])
    assert_type(call.then(as_text), DeferredCall[str])
    assert_type(call.then(as_text).then(len).then(bool), DeferredCall[bool])
    assert_type(call.then(lambda price: [price]), DeferredCall[list[float]])
    assert_type(call.catch(apologize), DeferredCall[float | bytes])
    assert_type(call.catch(lambda error: "free").result(), float | str)
    assert_type(call.finally_(release).result(), float)
    call.then(name)  # wrong
    call.then(load_soon)  # wrong
    call.catch(name)  # wrong
    call.then(as_text).then(with_tax)  # wrong
    call.finally_(with_tax)  # wrong


# A helper of the app's: with the type, and without.
def following(call: DeferredCall[float]) -> DeferredCall[str]:
    return call.then(as_text)


def unknown(call: DeferredCall) -> Any:
    return call.result()


following(defer(load, 1))
unknown(defer(load, 1))
following(defer(name))  # wrong


def at_the_same_time(items: list[int]) -> None:
    shop = pool("shop")
    prices = [shop.submit(load, item) for item in items]
    assert_type(shop.submit(load, 1), Future[float])
    assert_type(shop.submit(load_soon, 1), Future[float])
    assert_type(shop.map(load, items), Iterator[float])
    assert_type(shop.map(load_soon, items), Iterator[float])
    assert_type(gather(prices), list[float])
    assert_type(gather(shop.submit(load, item) for item in items), list[float])
    assert_type(gather((defer(load, 1), defer(load_soon, 2))), list[float])
    assert_type(gather({1: shop.submit(load, 1)}), dict[int, float])
    both = gather({"price": shop.submit(load, 1), "name": name}, timeout=2)
    assert_type(both, dict[str, Any])
    assert_type(gather([name, name]), list[Any])
    assert_type(gather([name, lambda: load(1)], return_exceptions=True), list[Any])
    assert_type(gather(prices, return_exceptions=True), list[Any])
    shop.submit(load, "1")  # wrong
    gather([load])  # wrong
    gather([1])  # wrong
    gather({"price": 1})  # wrong
    gather(prices)[0].upper()  # wrong
    gather(prices, timeout="2")  # wrong


def flask(app: Flask) -> None:
    Defer(app, max_calls=5, pools={"shop": ThreadPool(16)}, when_full="drop")
    Defer(time_limit=60, slow_after=None, check_arguments=True)
    Defer(app, max_cals=5)  # wrong
    Defer(app, max_calls="5")  # wrong
    Defer(app, when_full="stop")  # wrong


CACHE = object()  # any of those that docs/cache.md names


@flexible_cache(CACHE, fresh=5, stale=60)
def cached(item: int) -> float:
    return item / 2


class Basket:
    @flexible_cache(CACHE, fresh=5, stale=60, key=repr)
    def total(self) -> float:
        return 2.5


def caches() -> None:
    assert_type(flexible(CACHE, "price", 5, 60, load, 1), float)
    assert_type(flexible(CACHE, "price", 5, 60, load_soon, 1, wait=2), float)
    flexible(CACHE, "price", 5, 60, load, 1, on_refresh=DeferredCall.always)
    assert_type(cached(1), float)
    assert_type(cached.key(1), str)
    assert_type(Basket().total(), float)
    once = defer(load, 1).once_for("price", 30, lock=CACHE).always()
    assert_type(once, DeferredCall[float])
    flexible(CACHE, "price", "5", 60, load, 1)  # wrong
    cached("1")  # wrong
    defer(load, 1).once_for(30)  # wrong


class Mine(SyncWorker):
    def run(self) -> None:
        super().run()


class MineWithThreads(ThreadWorker):
    pass


class MineOfGevent(GeventWorker):
    pass


gunicorn.TornadoWorker  # wrong
