"""Waiting for what should come soon, without sleeping for as long as it might take."""

from __future__ import annotations

import time

PATIENCE = 20  # seconds for what should come; a machine may be busy


def until(condition):
    """Wait until that is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
