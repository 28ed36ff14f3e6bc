"""The measurements that tests of several modules share."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from . import servers
from .table import Table

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def table(request):
    """The measurements of all set-ups to be tested, some at a time.

    Each set-up is started once, for its cells, and then for the stress.
    """
    cells, stressed = defaultdict(dict), defaultdict(list)  # dicts keep the order
    for item in request.session.items:
        if HERE not in item.path.parents or "table" not in item.fixturenames:
            continue
        wanted = item.callspec.params
        if servers.SETUPS[wanted["name"]].missing():
            continue
        if "how" in wanted:
            stressed[wanted["name"]].append(wanted["how"])
        else:
            cells[wanted["name"]][wanted["shape"], wanted["protocol"]] = None
    names = [name for name in servers.SETUPS if name in cells or name in stressed]
    with Table({name: list(cells[name]) for name in names}, stressed) as table:
        yield table
