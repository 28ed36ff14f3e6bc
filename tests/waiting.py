"""Waiting for what should come soon, without sleeping for as long as it might take."""

from __future__ import annotations

import time

PATIENCE = 20  # seconds for what should come; a machine may be busy


def until(condition, what=None):
    """Wait until that is true, which is ``what``; return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return found
