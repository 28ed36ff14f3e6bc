"""The project for Django, as it is: its tests, under gunicorn, under runserver."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

django = pytest.importorskip("django")

from ..django.site import Site  # noqa: E402
from ..helpers.waiting import at_best, until  # noqa: E402

PROJECT = Path(__file__).parents[2] / "examples" / "django_site"


@pytest.fixture
def site(tmp_path):
    """A copy of it, so that nothing is written beside the example."""
    site = Site.__new__(Site)
    site.root = tmp_path
    for path in PROJECT.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    return site


def test_its_tests(site):
    assert "\nOK\n" in site.manage("test")
    assert "no issues" in site.manage("check")


@pytest.mark.parametrize("how", ["gunicorn", "runserver"])
def test_served(site, how):
    """The reply does not wait for the mail, which is sent."""
    command = {
        "gunicorn": ["-m", "gunicorn", "wsgi", "--bind"],
        "runserver": ["-u", "manage.py", "runserver", "--noreload"],
    }[how]
    with site.served(command) as server:

        def mails():
            return site.output.count("To: ada@example.org")

        def signup():
            before = mails()
            began = time.monotonic()
            reply = server.get("/signup?email=ada@example.org")
            assert reply == (200, "Welcome, ada@example.org!\n")
            taken = time.monotonic() - began
            # gunicorn's one worker is busy until then.
            until(lambda: mails() > before, lambda: site.output)
            return taken

        at_best(signup, 0.4)
        if django.VERSION >= (6, 0):
            until(lambda: "counted ada@example.org" in site.output)
