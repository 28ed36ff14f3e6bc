"""Whole projects: their own tests, by Django and by pytest-django, and commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from .site import Site

VIEWS = """
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse, StreamingHttpResponse
from wsgi_defer import defer
from wsgi_defer.django import defer_on_commit
from .models import Row

def write(text):
    Row.objects.create(text=text)

def signup(request):
    user = User.objects.create(username=request.GET["name"])
    defer(lambda: write(f"{user.pk and user.username} {request.user}"))
    return HttpResponse("welcome", status=int(request.GET.get("status", 200)))

def committed(request):
    with transaction.atomic():
        defer_on_commit(write, "committed")
    return HttpResponse("welcome")

async def asynchronous(request):
    defer(write, "async")
    return HttpResponse("welcome")

def rows(request):
    return HttpResponse(" ".join(Row.objects.values_list("text", flat=True)))
"""
URLS = [
    f"path('{name}', views.{name})"
    for name in ("signup", "committed", "asynchronous", "rows")
]
TESTS = """
from unittest import mock
import time, urllib.request
from django.test import (
    Client, LiveServerTestCase, RequestFactory, TestCase, TransactionTestCase
)
from wsgi_defer import deferring
from . import views
from .models import Row

def texts():
    return list(Row.objects.values_list("text", flat=True))

class InTransaction(TestCase):
    def test_calls_have_run(self):
        for number in (1, 2):
            self.client.get("/signup", {"name": f"ada{number}"})
            self.assertEqual(texts()[-1], f"ada{number} AnonymousUser")

    def test_a_failure(self):
        self.client.get("/signup", {"name": "ada", "status": 404})
        self.assertEqual(texts(), [])

    def test_it_is_rolled_back(self):
        self.assertEqual(texts(), [])

    def test_commits(self):
        self.client.get("/committed")
        self.assertEqual(texts(), [])
        with self.captureOnCommitCallbacks(execute=True):
            self.client.get("/committed")
        self.assertEqual(texts(), ["committed"])

    def test_asynchronous(self):
        self.client.get("/asynchronous")
        self.assertEqual(texts(), ["async"])

    async def test_the_asynchronous_client(self):
        await self.async_client.get("/asynchronous")
        self.assertEqual([row.text async for row in Row.objects.all()], ["async"])

    def test_a_view_alone(self):
        with deferring():
            views.signup(self.with_user(RequestFactory().get("/?name=ada")))
        self.assertEqual(texts(), ["ada nobody"])

    def with_user(self, request):
        request.user = "nobody"
        return request

class Committing(TransactionTestCase):
    def test_commits(self):
        self.client.get("/committed")
        self.assertEqual(texts(), ["committed"])

class Live(LiveServerTestCase):
    def get(self, path):
        with urllib.request.urlopen(self.live_server_url + path) as reply:
            return reply.read().decode()

    def test_calls_have_run_before_the_next_request(self):
        for number in range(5):
            self.get(f"/signup?name=ada{number}")
        deadline = time.monotonic() + 20
        while len(texts()) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(len(texts()), 5)
"""
COMMAND = """
import sys
from django.core.management.base import BaseCommand, CommandError
from wsgi_defer import defer
from wsgi_defer.django import defer_on_commit
from shop.models import Row

class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("how")

    def handle(self, how, **options):
        defer(lambda: (print("ran"), Row.objects.create(text=how)))
        defer_on_commit(print, "committed")
        print("handled")
        if how == "error":
            raise CommandError("no")
        if how == "exit":
            sys.exit(3)
"""


def shop(tmp_path, **more):
    files = {
        "shop/tests.py": TESTS,
        "shop/management/__init__.py": "",
        "shop/management/commands/__init__.py": "",
        "shop/management/commands/work.py": COMMAND,
        **more,
    }
    site = Site(tmp_path, views=VIEWS, urls=URLS, **files)
    site.manage("makemigrations", "shop")
    return site


def test_tests_of_django(tmp_path):
    """``manage.py test``, with each kind of test case."""
    assert "\nOK\n" in shop(tmp_path).manage("test")


def test_tests_on_postgresql(tmp_path, database):
    """The same, where each thread has a connection of its own."""
    site = shop(tmp_path)
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write(database.settings())
    assert "\nOK\n" in site.manage("test", "--noinput")


def test_tests_of_pytest_django(tmp_path):
    """Its fixtures ``client``, ``django_capture_on_commit_callbacks``, ``live_server``;
    and a call that fails is in ``caplog``."""
    pytest.importorskip("pytest_django")
    tests = """
    import urllib.request
    import pytest
    from shop.models import Row

    def texts():
        return list(Row.objects.values_list("text", flat=True))

    @pytest.mark.django_db
    def test_client(client):
        client.get("/signup?name=ada")
        assert texts() == ["ada AnonymousUser"]

    def test_commits(client, db, django_capture_on_commit_callbacks):
        with django_capture_on_commit_callbacks(execute=True):
            client.get("/committed")
        assert texts() == ["committed"]

    def test_failure(client, db, caplog, monkeypatch):
        monkeypatch.setattr("shop.views.Row", None)
        client.get("/signup?name=ada")
        assert "failed" in caplog.text

    def test_live(live_server, transactional_db):
        with urllib.request.urlopen(live_server.url + "/signup?name=ada") as reply:
            assert reply.read() == b"welcome"
        with urllib.request.urlopen(live_server.url + "/rows") as reply:
            assert reply.status == 200
    """
    site = shop(tmp_path, **{"test_shop.py": tests})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ds",
         "settings", "test_shop.py"], cwd=tmp_path, env=site.env, capture_output=True,
        text=True, timeout=OF_PROCESSES, check=False,
    )  # fmt: skip
    assert "4 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.promise("L18")
def test_commands(tmp_path):
    """Calls run when the command has succeeded; Django's own commands have no scope."""
    site = shop(tmp_path)
    site.manage("migrate")
    assert site.manage("work", "well").split() == ["handled", "ran", "committed"]
    assert site.manage("work", "error", status=1).split()[0] == "handled"
    assert "ran" not in site.manage("work", "exit", status=3)
    told = site.manage(
        "shell", "-c", "from wsgi_defer import *; print(current_scope())"
    )
    assert told.split()[-1] == "None"


def test_check(tmp_path):
    """``manage.py check`` finds nothing in a good site, and says what is wrong."""
    site = shop(tmp_path)
    assert "no issues" in site.manage("check")
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write("MIDDLEWARE = MIDDLEWARE[1:]\nWSGI_DEFER = {'limit': 1}\n")
    told = site.manage("check", status=1)
    assert "W001" in told
    assert "'limit'" in told


@pytest.mark.parametrize("reload", [[], ["--noreload"]])
def test_runserver(tmp_path, reload):
    """Calls run on Django's development server, too."""
    site = shop(tmp_path)
    site.manage("migrate")
    with site.served(["manage.py", "runserver", *reload]) as server:
        assert server.get("/signup?name=ada") == (200, "welcome")
        until(lambda: server.get("/rows") == (200, "ada AnonymousUser"))
