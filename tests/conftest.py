"""Fixtures for all tests."""

from __future__ import annotations

import threading

import pytest

from wsgi_defer import background, current_scope


@pytest.fixture
def ran():
    """A list that calls append to, and that tests compare."""
    return []


@pytest.fixture
def released():
    """Jobs may wait for it, and end with the test at last."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No test leaves a scope current, or work on the background thread."""
    assert current_scope() is None
    yield
    assert background.join(timeout=10)
    assert current_scope() is None
