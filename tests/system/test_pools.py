"""Pools, with processes, and with many requests."""

from __future__ import annotations

import gc
import os
import resource
import threading

import pytest

from wsgi_defer import DeferMiddleware, gather, pool
from wsgi_defer.pools import ThreadPool

from ..helpers.client import get, text_app
from ..helpers.every_pool import *  # noqa: F403  # its tests, which are run here
from ..helpers.pools import running_of, same
from ..helpers.waiting import until


@pytest.fixture(params=["processes"])
def name(request):
    """Of the pool that those tests are for."""
    return request.param


def test_no_growth():
    """1000 requests leave no threads, descriptors, tasks or memory behind."""
    kind = ThreadPool(4)

    def view():
        pool("four").submit(same, 1).result()
        pool("four").submit(same, 2)  # nobody awaits it
        gather({"a": int, "b": str})

    app = DeferMiddleware(text_app(view), pools={"four": kind})

    def serve(times):
        for _ in range(times):
            get(app)
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return threading.active_count(), len(os.listdir("/proc/self/fd")), pages

    serve(200)
    threads, descriptors, pages = serve(100)
    after = serve(1000)
    assert after[0] <= threads + 2  # those that were not needed before
    assert after[1] <= descriptors
    assert (after[2] - pages) * resource.getpagesize() < 2_000_000
    until(lambda: not running_of(kind)._load)
    assert not running_of(kind).tasks
