"""Fixtures for the tests of gunicorn's hooks, which this process runs itself."""

from __future__ import annotations

import pytest

from wsgi_defer._runtime import report


@pytest.fixture(autouse=True)
def no_log_of_a_server(monkeypatch):
    """What the hooks tell of gunicorn's log holds for one test."""
    monkeypatch.setattr(report, "_of_server", None)
    monkeypatch.setattr(report, "_error_log", None)
