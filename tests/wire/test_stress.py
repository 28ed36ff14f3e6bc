"""Back-to-back requests, each deferring: no client error, no call lost or run twice.

``python -m tests.wire.stress`` does the same with larger numbers, and with times.
"""

from __future__ import annotations

import pytest

from . import servers
from .faults import matches
from .stress import SILENT

SETUPS = [
    name
    for name, setup in servers.SETUPS.items()
    if setup.protocols != ("h2",) and not matches(name, "*-21-* *-22-* *-25-*")
]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in SETUPS
        for how in ("keep", "close")
        # They close without a word, with nothing deferred, too.
        if how == "close" or name not in SILENT
    ],
)
def test_stress(table, name, how):
    """Nobody sees an error, and every call runs once."""
    if missing := servers.SETUPS[name].missing():
        pytest.skip(f"{name}: {missing} is not installed: make services")
    result = table.stress(name, how)
    assert result.errors == []
    assert (result.lost, result.twice) == (0, 0)
