"""Django's own tests of its backends of tasks, with ours in their place.

They are not in Django's wheel, so ``make django-new`` gets its source first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES

SOURCE = os.environ.get("DJANGO_SOURCE", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="make django-new runs these")

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["wsgi_defer.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
"""
OURS = """
import os
from wsgi_defer.django.tasks import JobsBackend

class ListedJobs(JobsBackend):
    "What DummyBackend has for tests: they look at all that was enqueued."

    def __init__(self, alias, params):
        url = os.environ["JOBS_URL"]
        super().__init__(alias, {**params, "OPTIONS": {"url": url}})
        self.options = {}  # as the tests have set them
        self.results = []

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        self.results.append(self.get_result(result.id))
        return result

    def clear(self):
        self.results.clear()
"""
NAMES = {
    "django.tasks.backends.dummy.DummyBackend": "ours.ListedJobs",
    "django.tasks.backends.immediate.ImmediateBackend": (
        "wsgi_defer.django.tasks.DeferBackend"
    ),
    "from django.tasks.backends.dummy import DummyBackend": (
        "from ours import ListedJobs as DummyBackend"
    ),
    "from django.tasks.backends.immediate import ImmediateBackend": (
        "from wsgi_defer.django.tasks import DeferBackend as ImmediateBackend"
    ),
}
FAIL = {
    "immediate_backend": set(),
    # These change what DummyBackend keeps, behind its back.
    "dummy_backend": {"test_clear", "test_refresh_result", "test_refresh_result_async"},
    # Jobs have no priority.
    "tasks": {"test_invalid_priority", "test_chained_using", "test_using_priority"},
}


@pytest.mark.parametrize("name", FAIL)
def test_spliced(tmp_path, redis, name):
    """``ImmediateBackend`` is ``DeferBackend`` without a request, and ``DummyBackend``
    is ``JobsBackend`` without a worker; all other tests pass."""
    with tarfile.open(SOURCE) as archive:
        for member in archive:
            if "/tests/tasks/" in member.name and member.isfile():
                path = tmp_path / "tasks" / Path(member.name).name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    module = tmp_path / "tasks" / f"test_{name}.py"
    text = module.read_text()
    for theirs, ours in NAMES.items():
        text = text.replace(theirs, ours)
    assert text != module.read_text()
    module.write_text(text)
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "ours.py").write_text(OURS)
    env = {
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), HOME]),
        "JOBS_URL": redis.url,
    }
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", f"tasks.test_{name}"], cwd=tmp_path,
        env={**os.environ, **env}, timeout=OF_PROCESSES, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    ran = int(re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[1])
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\w+)", done.stderr, re.MULTILINE))
    assert ran > 15
    assert failed == FAIL[name], done.stderr
