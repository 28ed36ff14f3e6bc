"""What a release installs: the wheel holds the package, and works without this tree."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ..helpers.programs import HOME, copy_tree, tracked_files

NEEDED = ("build", "twine", "setuptools_scm")

pytestmark = [
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)), reason="make docs installs them"
    ),
    pytest.mark.skipif(not Path(HOME, ".git").exists(), reason="not in a clone"),
]


def run(*command, cwd, **more):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, check=False, text=True, timeout=300,
        capture_output=True, **more,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that is made from it, of a copy of this tree."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    copy_tree(copy)
    run("git", "init", "--quiet", cwd=copy)
    run("git", "add", "--all", "--force", cwd=copy)
    run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit",
        "--quiet", "--message=copy", cwd=copy)  # fmt: skip
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, cwd=copy)
    return dist


def test_the_sdist_has_all_that_git_has(dist):
    """So that the tests run from it, and the pages build."""
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(tracked_files()) <= names


def test_the_wheel_has_the_package_alone(dist):
    """And its metadata; both are well-formed, as an index wants them."""
    [path] = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(path).namelist() if "-info/" not in name}
    assert names == {
        name for name in tracked_files()
        if name.startswith("wsgi_defer/") and name.endswith((".py", "py.typed"))
    }  # fmt: skip
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)


PROGRAM = """
import sys
from pathlib import Path
import wsgi_defer
from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange

assert Path(wsgi_defer.__file__).is_relative_to(sys.argv[1]), wsgi_defer.__file__

def hello(environ, start_response):
    defer(print, "hello")
    start_response("200 OK", [])
    return [b"thanks"]

assert exchange(DeferMiddleware(hello)).body == b"thanks"

import flask
from wsgi_defer.flask import Defer

app = flask.Flask("shop")
Defer(app)
app.get("/")(lambda: defer(print, "flask") and "thanks")
assert app.test_client().get("/").text == "thanks"

import django
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path

view = path("", lambda request: HttpResponse(defer(print, "django") and "thanks"))
settings.configure(
    ROOT_URLCONF=type("Urls", (), {"urlpatterns": [view]}), ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["wsgi_defer.django"],
    MIDDLEWARE=["wsgi_defer.django.DeferMiddleware"],
)
django.setup()
assert Client().get("/").content == b"thanks"

from wsgi_defer.jobs import Jobs

jobs = Jobs(None)
jobs.handler("say")(print)
jobs.enqueue("say", "jobs")

import wsgi_defer.gunicorn
assert wsgi_defer.gunicorn.SyncWorker
"""


def test_an_empty_environment(dist, tmp_path):
    """The wheel, in a folder of its own, with what it needs but without this tree:
    hello, Flask, Django, jobs."""
    [wheel] = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--disable-pip-version-check", "--target", tmp_path / "site", wheel,
        cwd=tmp_path)  # fmt: skip
    out = run(
        sys.executable, "-c", PROGRAM, tmp_path / "site", cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert out.split() == ["hello", "flask", "django", "jobs"]
