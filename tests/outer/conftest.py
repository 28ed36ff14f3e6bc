"""Servers that all of these tests share, and places to work in."""

from __future__ import annotations

import pytest

from ..engines.conftest import own_places
from ..engines.kinds import Servers


def pytest_configure(config):
    """Ignore a warning that is an error otherwise."""
    # Celery 5.7's Redis backend with redis-py 8.
    config.addinivalue_line("filterwarnings", "ignore:Call to deprecated setex")


@pytest.fixture(scope="session")
def servers():
    """Servers that are started when a test first needs them."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def alone(servers):
    """Makes places for one test; ``place.work()`` starts workers."""
    with own_places(servers) as get:
        yield get
