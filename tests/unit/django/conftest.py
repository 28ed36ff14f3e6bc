"""Django, set up once, with one view that each test writes."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec

import pytest

# Not in every environment of the tests, and not for every Python.
collect_ignore_glob = [] if find_spec("django") else ["test_*.py"]

if not collect_ignore_glob:
    from django.db import connection
    from django.test import Client
    from django.test.utils import setup_test_environment

    from . import site, urls

    site.set_up()
    with suppress(RuntimeError):  # pytest-django has done it
        setup_test_environment()


@pytest.fixture(scope="package", autouse=True)
def tables():
    """Those of the installed apps, in memory."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    yield
    connection.close()


@pytest.fixture
def view():
    """Makes a function the view of the site."""

    def set_view(fn):
        urls.views["page"] = fn
        return fn

    yield set_view
    urls.views.clear()


@pytest.fixture
def client():
    """Django's own, which raises nothing of a view's."""
    return Client(raise_request_exception=False)
