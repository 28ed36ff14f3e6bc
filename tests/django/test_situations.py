"""Calls, order and skips are the same in Flask and Django, tested and in production."""

from __future__ import annotations

import os
import subprocess
import sys

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES
from ..unit.testing.situations import SITUATIONS


def test_the_table():
    """Six cells for each situation, all of them the same."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.django.situations"], cwd=HOME,
        env={**os.environ, "PYTHONPATH": HOME}, timeout=OF_PROCESSES,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, *rows = done.stdout.splitlines()
    assert [row.count("| same ") for row in rows] == [6] * len(SITUATIONS)
    assert len(SITUATIONS) >= 12
