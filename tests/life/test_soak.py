"""A short soak; ``python -m tests.life.soak`` is the long one."""

from __future__ import annotations

import pytest

from .soak import soak


@pytest.mark.ahead
@pytest.mark.parametrize("row", ["27-sync-ours", "27-sync", "27-gthread-ours"])
def test_soak(row):
    """Of every call it is known what became of it, and the master does not grow."""
    result = soak(row, requests=2000, workers=4, kills=5, pause=0.5)
    assert list(result.wrong()) == [], result.report()
    assert result.kills == 5
    assert result.answered > 1000
    assert result.finished
