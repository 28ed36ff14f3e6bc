"""Fixtures for all tests."""

from __future__ import annotations

import pytest

from wsgi_defer import background, current_scope


@pytest.fixture
def ran():
    """A list that calls append to, and that tests compare."""
    return []


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No test leaves a scope current, or work on the background thread."""
    assert current_scope() is None
    yield
    assert background.join(timeout=10)
    assert current_scope() is None
