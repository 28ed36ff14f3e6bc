"""The page about the status page tells the truth: its blocks run, its names exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsgi_defer.jobs import Jobs
from wsgi_defer.status import StatusPage
from wsgi_defer.status._json import to_json

from ..helpers.client import text_app
from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES
from ..unit.status.fakes import FakeJobs, ask, figures, job

TEXT = Path(HOME, "docs", "status.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", TEXT, re.DOTALL))
HERE = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost", "SERVER_PROTOCOL":
        "HTTP/1.1"}  # fmt: skip


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """Nothing is recorded in the process of the tests."""
    monkeypatch.setattr("wsgi_defer.status._page.record", lambda: None)
    monkeypatch.setattr("wsgi_defer.status._page.snapshot", figures)


def run(name, **names):
    namespace = {"__name__": name, **names}
    exec(BLOCKS[name], namespace)
    return SimpleNamespace(**namespace)


def is_mounted(app):
    """The page is at its path, for those who are let in, and nowhere else."""
    for path, status in (
        ("/status", "200"), ("/status/", "200"), ("/status/metrics", "200"),
        ("/status/other", "404"), ("/statuses", "404"),
    ):  # fmt: skip
        assert ask(app, path=path, **HERE).status.startswith(status), path
        stranger = ask(app, path=path, **HERE, HTTP_X_FORWARDED_FOR="127.0.0.1")
        assert stranger.status[:3] in ("403", "404")
    head = ask(app, path="/status", method="HEAD", **HERE)
    assert (head.status, head.body) == ("200 OK", b"")


def test_flask():
    is_mounted(run("app.py").app)


def test_any_other():
    names = {"app": text_app(lambda: None, "404 Not Found")}
    sys.modules["shop"] = SimpleNamespace(**names)
    try:
        app = run("wsgi.py").application
    finally:
        del sys.modules["shop"]
    is_mounted(app)


def test_django(tmp_path):
    """In a process of its own, as settings are configured once."""
    pytest.importorskip("django")
    (tmp_path / "status.py").write_text(BLOCKS["status.py"])
    program = """
from django.conf import settings
settings.configure(ROOT_URLCONF="status", ALLOWED_HOSTS=["*"], SECRET_KEY="x",
                   MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"])
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
from tests.examples import test_status_page
test_status_page.is_mounted(app)
print("mounted")
"""
    path = os.pathsep.join([HOME, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": path}, timeout=OF_PROCESSES,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "mounted\n", done.stderr


def test_who_may_see_it():
    """The user whom nginx names, and whom the log names then."""
    allow = run("allow.py").named_by_nginx
    ada, eve, nobody = {"HTTP_X_STATUS_USER": "ada"}, {"HTTP_X_STATUS_USER": "eve"}, {}
    assert [allow(each) for each in (ada, eve, nobody)] == [True, False, False]
    assert ada["REMOTE_USER"] == "ada"


def test_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(run("jobs_page.py").jobs, Jobs)


def test_no_block_is_forgotten():
    assert set(BLOCKS) == {
        "app.py", "status.py", "wsgi.py", "allow.py", "jobs_page.py",
    }  # fmt: skip


def test_the_fields_of_json():
    """The table has those that there are, and no others, in their places."""
    page = StatusPage(allow=lambda environ: True, jobs=FakeJobs([job()]))
    told = json.loads(ask(page, "format=json").body)
    rows = dict(re.findall(r"^\| (`.*?`) \| (.*) \|$", TEXT, re.MULTILINE))
    of = {name: words for names, words in rows.items()
          for name in re.findall(r"`(\w+)`", names)}  # fmt: skip
    assert set(told) == {name for name in of if not name.startswith("status")}

    def named(row):
        return set(re.findall(r"`(\w+)`", of[row]))

    assert named("totals") == set(told["totals"])
    assert named("workers") == set(told["workers"][0])
    assert named("failures") == set(told["failures"][0])
    call = told["calls"][0]
    assert named("calls") == {*call, *call["ran"]}
    assert named("jobs") >= set(told["jobs"])
    assert "jobs" not in to_json(figures(), None)


def test_the_pictures_are_there():
    for name in re.findall(r"\(pictures/(.*?)\)", TEXT):
        path = Path(HOME, "docs", "pictures", name)
        assert 10_000 < path.stat().st_size < 150_000
