"""Back-to-back requests, each deferring: no client error, no call lost or run twice.

``python -m tests.wire.stress`` does the same with larger numbers, and with times.
"""

from __future__ import annotations

import pytest

from . import servers
from .faults import matches
from .stress import SILENT, run

REQUESTS = 150
SETUPS = [
    name
    for name, setup in servers.SETUPS.items()
    if setup.protocols != ("h2",) and not matches(name, "*-21-* *-22-* *-25-*")
]


@pytest.fixture(scope="module", params=SETUPS)
def server(request):
    """Each set-up in turn, started once."""
    with servers.running_or_skipped(request.param) as server:
        yield server


@pytest.mark.parametrize("how", ["keep", "close"])
def test_stress(server, how):
    """Nobody sees an error, and every call runs once."""
    if how == "keep" and server.name in SILENT:
        pytest.skip(f"{server.name} closes without a word, with nothing deferred, too")
    result = run(server, REQUESTS, keep=how == "keep", defer=True)
    assert result.errors == []
    assert (result.lost, result.twice) == (0, 0)
