"""Servers for the session, and a place to work in for each test or module."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from .kinds import Place, Servers

HERE = Path(__file__).parent
OUTCOME = pytest.StashKey()
AHEAD = 4  # marked tests that run at the same time, beside the one of pytest


def pytest_configure(config):
    """Add a marker, and ignore a warning that is an error otherwise."""
    # Celery 5.7's Redis backend with redis-py 8.
    config.addinivalue_line("filterwarnings", "ignore:Call to deprecated setex")
    config.addinivalue_line(
        "markers", "ahead: runs beside other tests; it mostly waits"
    )


@pytest.fixture(scope="session")
def servers():
    """Servers that are started when a test first needs them."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def shared(servers):
    """A place with two workers for each engine, for tests that disturb no others."""
    places = {}

    def get(kind):
        if kind.name not in places:
            places[kind.name] = Place(kind, servers)
            places[kind.name].work()
            # For a later test, as it takes 7 seconds.
            places[kind.name].early = places[kind.name].jobs.enqueue("flaky", 4)
        return places[kind.name]

    yield get
    for place in places.values():
        place.close()


class Loggers(dict):
    """All loggers. pytest goes through them at each test, while one ahead may make
    another."""

    def values(self):
        """As a list, which no other thread changes."""
        return [*super().values()]


@pytest.fixture(scope="session", autouse=True)
def ahead(servers, request):
    """Start the marked tests before any other; each has its own places."""

    def run(item):
        arguments = {**item.callspec.params} if hasattr(item, "callspec") else {}
        with own_places(servers) as alone:
            if "alone" in item.fixturenames:
                arguments["alone"] = alone
            item.function(**arguments)

    manager = logging.root.manager
    manager.loggerDict = Loggers(manager.loggerDict)
    executor = ThreadPoolExecutor(AHEAD)
    yield {
        item.nodeid: executor.submit(run, item)
        for item in request.session.items
        if item.get_closest_marker("ahead") and HERE in item.path.parents
    }
    executor.shutdown(cancel_futures=True)


@pytest.fixture(autouse=True)
def outcome_ahead(ahead, request):
    """Put this test's outcome where the hook below finds it."""
    request.node.stash[OUTCOME] = ahead.get(request.node.nodeid)


def pytest_pyfunc_call(pyfuncitem):
    """Wait for the outcome of a marked test."""
    if (outcome := pyfuncitem.stash[OUTCOME]) is None:
        return None
    outcome.result()
    return True


@pytest.fixture
def alone(servers):
    """Makes places for one test; ``place.work()`` starts workers."""
    with own_places(servers) as get:
        yield get


@contextmanager
def own_places(servers):
    """A function that makes places. They are closed in the end."""
    places = []

    def get(kind):
        places.append(Place(kind, servers))
        return places[-1]

    try:
        yield get
    finally:
        for place in places:
            place.close()
