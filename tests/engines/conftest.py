"""Servers for the session, and a place to work in for each test or module."""

from __future__ import annotations

import pytest

from .kinds import Place, Servers


def pytest_configure(config):
    """Let pass what only our strictness makes an error."""
    # Celery 5.7's Redis backend with redis-py 8.
    config.addinivalue_line("filterwarnings", "ignore:Call to deprecated setex")


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


@pytest.fixture
def alone(servers):
    """Makes places of one's own; workers are started by ``place.work()``."""
    places = []

    def get(kind):
        places.append(Place(kind, servers))
        return places[-1]

    yield get
    for place in places:
        place.close()
