"""Tests that mostly wait, run beside each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .table import AT_A_TIME

FUTURES = pytest.StashKey()
HERE = Path(__file__).parent


def pytest_configure(config):
    """Name the marker."""
    config.addinivalue_line(
        "markers", "ahead: begun with all that are marked so; takes parameters alone"
    )


def pytest_pyfunc_call(pyfuncitem):
    """Take the outcome of a marked test, as soon as it is there."""
    if pyfuncitem.get_closest_marker("ahead") is None:
        return None
    session = pyfuncitem.session
    if FUTURES not in session.stash:
        session.stash[FUTURES] = begin(session)
    session.stash[FUTURES][1][pyfuncitem.nodeid].result()
    return True


def begin(session):
    """Begin all marked tests of this session, some at a time."""
    executor = ThreadPoolExecutor(AT_A_TIME)
    return executor, {
        item.nodeid: executor.submit(item.function, **parameters(item))
        for item in session.items
        if item.get_closest_marker("ahead") and HERE in item.path.parents
    }


def parameters(item):
    """The arguments of a test function."""
    return item.callspec.params if hasattr(item, "callspec") else {}


def pytest_sessionfinish(session):
    """Begin no more of them, and wait for those under way: they stop their servers."""
    if FUTURES in session.stash:
        session.stash[FUTURES][0].shutdown(cancel_futures=True)
