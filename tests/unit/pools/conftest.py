"""Fixtures for the tests of pools."""

from __future__ import annotations

import pytest

from wsgi_defer._runtime.loop import loop
from wsgi_defer.pools._deadlines import deadlines


@pytest.fixture(autouse=True, scope="package")
def threads_that_are_measured():
    """Coverage sees no more of threads that were there while hypothesis ran."""
    for each in (loop, deadlines):
        vars(each).pop("made", None)
