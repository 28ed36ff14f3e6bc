"""The page about frameworks tells the truth: its apps and their tests run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES

PAGE = Path(HOME, "docs", "frameworks.md")
SECTIONS = dict(
    re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
)
NEEDED = {"Pyramid": ["webtest"], "Bottle": ["webtest"]}
GIVES_WAY = "ignore::DeprecationWarning"  # to WebOb, which imports cgi


def blocks(name):
    return re.findall(r"```python\n# (.*?)\n(.*?)```", SECTIONS[name], re.DOTALL)


def run(folder, *args):
    done = subprocess.run(
        [sys.executable, "-W", GIVES_WAY, "-m", *args], cwd=folder,
        env={**os.environ, "PYTHONPATH": HOME, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        timeout=OF_PROCESSES,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", [each for each in SECTIONS if each != "Django"])
def test_an_app_and_its_tests(tmp_path, name):
    """Both are green, and the second one is red when the call fails."""
    for needed in [name.lower(), *NEEDED.get(name, [])]:
        pytest.importorskip(needed)
    (app, code), (tests, of_app) = blocks(name)
    assert code.count("time.sleep(1)") == 1
    code = code.replace("time.sleep(1)", "time.sleep(0)")
    (tmp_path / tests).write_text(of_app)
    options = ["-p", "wsgi_defer.pytest_plugin", "-p", "no:cacheprovider"]
    (tmp_path / app).write_text(code)
    assert "2 passed" in run(tmp_path, "pytest", *options)
    (tmp_path / app).write_text(code.replace("time.sleep(0)", "raise OSError('down')"))
    out = run(tmp_path, "pytest", *options)
    assert "1 failed, 1 passed" in out
    assert "shop.send_mail raised OSError: down" in out


def test_django(tmp_path):
    """In a project as ``startproject`` makes it."""
    pytest.importorskip("django")
    run(tmp_path, "django", "startproject", "site_of_ada", ".")
    home = tmp_path / "site_of_ada"
    texts = {name.removeprefix("in "): code for name, code in blocks("Django")}
    (home / "views.py").write_text(texts["views.py"])
    (home / "tests.py").write_text(texts["tests.py"])
    with (home / "settings.py").open("a") as settings:
        settings.write(texts["settings.py"])
    (home / "urls.py").write_text(
        "from django.urls import path\nfrom .views import signup\n"
        "urlpatterns = [path('signup', signup)]\n"
    )
    assert "no issues" in run(tmp_path, "manage", "check")
    assert "Ran 2 tests" in (out := run(tmp_path, "manage", "test"))
    assert out.rstrip().endswith("OK\nDestroying test database for alias 'default'...")


def test_the_other_files():
    """They are there, and the filter is that of the example."""
    for link in re.findall(r"\]\((\.\.[^)#]*)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link
    [ini] = re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert ini in Path(HOME, "examples", "pyramid.ini").read_text()
