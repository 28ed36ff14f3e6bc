"""A short soak; ``python -m tests.life.soak`` is the long one."""

from __future__ import annotations

import pytest

from .soak import KILL, MIXED, soak


@pytest.mark.ahead
@pytest.mark.parametrize("row", ["27-sync-ours", "27-sync", "27-gthread-ours"])
@pytest.mark.parametrize("signals", [KILL, MIXED], ids=["kill", "mixed"])
def test_soak(row, signals):
    """Of every call it is known what became of it, and the master does not grow."""
    result = soak(row, requests=2000, workers=4, kills=6, pause=0.5, signals=signals)
    assert list(result.wrong()) == [], result.report()
    assert result.kills == 6
    assert result.answered > 1000
    assert result.finished
