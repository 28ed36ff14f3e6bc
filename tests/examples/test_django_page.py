"""The page about Django tells the truth: its code runs, in a project of its own."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("django")

from ..django.site import Site
from ..helpers.programs import HOME

PACKAGE = Path(HOME, "wsgi_defer", "django")
PAGE = Path(HOME, "docs", "django.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MODELS = """
from django.db import models

class Order(models.Model):
    what = models.TextField()
"""
VIEWS = """
from wsgi_defer.jobs import Jobs
from .models import Order

ran = []
jobs = Jobs(None)

@jobs.handler("order.ship")
def ship(payload):
    ran.append("ship")

def confirm(key):
    assert Order.objects.get(pk=key).what == "book"
    ran.append("confirm")

"""
TESTS = """
from django.core import mail
from django.test import TestCase
from .views import ran, signup

class Tests(TestCase):
    def test_signup(self):
        self.client.post("/signup", {"email": "ada@example.org"})
        self.assertEqual(mail.outbox[0].to, ["ada@example.org"])

    def test_order(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/order", {"what": "book"})
        self.assertEqual(sorted(ran), ["confirm", "confirm", "ship"])

    def test_view(self):
"""


def block(marker):
    (found,) = [code for code in BLOCKS if marker in code]
    return found


def test_the_page(tmp_path):
    """Its settings are well, and its views and its test do what it says."""
    others = '    "django.contrib.contenttypes", "django.contrib.auth", "shop",'
    settings = block("INSTALLED_APPS").replace("    # ...", others, 1)
    test = textwrap.indent(block("RequestFactory"), " " * 8)
    site = Site(
        tmp_path,
        settings=settings,
        views=VIEWS + block("def signup") + block("def order"),
        urls=["path('signup', views.signup)", "path('order', views.order)"],
        **{
            "shop/models.py": MODELS,
            "shop/tests.py": f"{TESTS}{test}\n        assert len(mail.outbox) == 1",
        },
    )
    assert "no issues" in site.manage("check")
    site.manage("makemigrations", "shop")
    assert "Ran 3 tests" in site.manage("test")


@pytest.mark.parametrize("name", ["DeferBackend", "JobsBackend"])
def test_the_backends_of_tasks(name):
    """They exist; tests/django/test_tasks.py runs both, where Django has tasks."""
    namespace = {}
    exec(block(name), namespace)
    backend = namespace["TASKS"]["default"]["BACKEND"]
    assert backend == f"wsgi_defer.django.tasks.{name}"
    assert f"class {name}(" in (PACKAGE / "tasks.py").read_text()


def test_no_block_is_forgotten():
    """A new block of code gets a test."""
    assert len(BLOCKS) == 6
