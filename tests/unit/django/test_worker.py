"""``manage.py wsgi_defer_worker``: what its other processes are started with."""

from __future__ import annotations

import sys

import pytest
from django.core.management import call_command

from wsgi_defer.django.management.commands import wsgi_defer_worker


@pytest.mark.parametrize("path", [None, "/srv/app"])
def test_where_modules_are(monkeypatch, path):
    """They find the settings where this one has found them."""
    seen = []
    monkeypatch.setattr(wsgi_defer_worker, "jobs_at", lambda target: target)
    monkeypatch.setattr(
        wsgi_defer_worker, "work", lambda jobs, given: seen.append(given)
    )
    with pytest.raises(SystemExit):
        call_command("wsgi_defer_worker", "shop.jobs:jobs", pythonpath=path)
    again = seen[0].again
    assert again[0] == sys.executable
    if path is None:
        assert "--pythonpath" not in again
    else:
        assert again[again.index("--pythonpath") + 1] == path
