"""Servers for the session, and a place to work in for each test or module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from .kinds import Place, Servers

HERE = Path(__file__).parent
OUTCOME = pytest.StashKey()
AHEAD = 3  # tests that mostly wait, at a time, beside the one whose turn it is


def pytest_configure(config):
    """Let pass what only our strictness makes an error."""
    # Celery 5.7's Redis backend with redis-py 8.
    config.addinivalue_line("filterwarnings", "ignore:Call to deprecated setex")
    config.addinivalue_line(
        "markers", "ahead: begun with all that are marked so; takes no more than alone"
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
            # For a test that comes later: it takes 7 seconds.
            places[kind.name].early = places[kind.name].jobs.enqueue("flaky", 4)
        return places[kind.name]

    yield get
    for place in places.values():
        place.close()


@pytest.fixture(scope="session", autouse=True)
def ahead(servers, request):
    """The marked tests, begun before any other; each has places of its own."""

    def run(item):
        arguments = {**item.callspec.params} if hasattr(item, "callspec") else {}
        with own_places(servers) as alone:
            if "alone" in item.fixturenames:
                arguments["alone"] = alone
            item.function(**arguments)

    executor = ThreadPoolExecutor(AHEAD)
    yield {
        item.nodeid: executor.submit(run, item)
        for item in request.session.items
        if item.get_closest_marker("ahead") and HERE in item.path.parents
    }
    executor.shutdown(cancel_futures=True)


@pytest.fixture(autouse=True)
def outcome_ahead(ahead, request):
    """Of this test, where the hook below finds it."""
    request.node.stash[OUTCOME] = ahead.get(request.node.nodeid)


def pytest_pyfunc_call(pyfuncitem):
    """Take the outcome of a marked test, as soon as it is there."""
    if (outcome := pyfuncitem.stash[OUTCOME]) is None:
        return None
    outcome.result()
    return True


@pytest.fixture
def alone(servers):
    """Makes places of one's own; workers are started by ``place.work()``."""
    with own_places(servers) as get:
        yield get


@contextmanager
def own_places(servers):
    """A function that makes places, which are closed in the end."""
    places = []

    def get(kind):
        places.append(Place(kind, servers))
        return places[-1]

    try:
        yield get
    finally:
        for place in places:
            place.close()
