"""A short soak; ``python -m tests.life.soak`` is the long one."""

from __future__ import annotations

import pytest

from wsgi_defer.ledger import PAGES

from .soak import HOOKS, KILL, MIXED, soak


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


@pytest.mark.ahead
def test_soak_with_calls_that_give_way():
    """Calls that move to the background thread, because a client waits, are no worse
    off."""
    result = soak(
        "27-sync-ours", requests=2000, workers=4, kills=6, pause=0.5, signals=MIXED,
        busy=True,
    )  # fmt: skip
    assert list(result.wrong()) == [], result.report()
    assert result.finished


@pytest.mark.ahead
def test_more_deaths_than_the_ledger_has_places():
    """They are used again. The app is preloaded, so that workers come quickly."""
    result = soak(
        "27-sync-ours", requests=0, workers=4, kills=PAGES + 40, pause=0.05,
        hooks=f"preload_app = True\n{HOOKS}",
    )  # fmt: skip
    assert list(result.wrong()) == [], result.report()
    assert result.named
