"""Django's tasks: after the response, and as jobs that workers run."""

from __future__ import annotations

import signal
import subprocess
import sys

import django
import pytest

from ..helpers.waiting import OF_PROCESSES, until
from .site import Site

pytestmark = pytest.mark.skipif(django.VERSION < (6, 0), reason="needs Django 6.0")

TASKS = """
from pathlib import Path
from django.tasks import task

def note(text):
    with Path("notes").open("a") as notes:
        notes.write(f"{text}\\n")

@task
def mail(to):
    note(f"mail {to}")
    return [to]

@task(takes_context=True)
def flaky(context, wanted):
    note(f"flaky {context.attempt}")
    if context.attempt < wanted:
        raise ValueError("not yet")
    return context.attempt

@task
async def coroutine():
    note("coroutine")

def no_task():
    note("no task")
"""
VIEWS = """
from datetime import timedelta
from django.http import HttpResponse, JsonResponse
from django.tasks import task_backends
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone
from . import tasks
from .signals import seen

def enqueue(request):
    name, status = request.GET["task"], int(request.GET.get("status", 200))
    task = getattr(tasks, name)
    args = {"mail": ["ada"], "flaky": [2], "coroutine": []}[name]
    if "later" in request.GET:
        task = task.using(run_after=timezone.now() + timedelta(seconds=3))
    result = task.enqueue(*args)
    tasks.note(f"status {result.status}")
    return HttpResponse(result.id, status=status)

def result(request, id):
    try:
        result = tasks.mail.get_backend().get_result(id)
    except TaskResultDoesNotExist:
        return HttpResponse("none", status=404)
    return JsonResponse({
        "status": result.status, "task": result.task.name, "args": result.args,
        "value": result.return_value if result.status == "SUCCESSFUL" else None,
        "attempts": result.attempts, "errors": [e.traceback for e in result.errors],
        "classes": [e.exception_class.__name__ for e in result.errors],
    })
"""
SIGNALS = """
from django.dispatch import receiver
from django.tasks import signals
from . import tasks

seen = []

def listen(name):
    @receiver(getattr(signals, f"task_{name}"), weak=False)
    def hear(sender, task_result, **kwargs):
        tasks.note(f"{name} {task_result.task.name} {task_result.status}")

for name in ("enqueued", "started", "finished"):
    listen(name)
"""
APPS = """
from django.apps import AppConfig

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        from . import signals
"""
FILES = {"shop/tasks.py": TASKS, "shop/signals.py": SIGNALS, "shop/apps.py": APPS}
URLS = ["path('enqueue', views.enqueue)", "path('result/<id>', views.result)"]


def make_site(tmp_path, backend):
    settings = f"TASKS = {{'default': {backend!r}}}\n"
    return Site(tmp_path, settings=settings, views=VIEWS, urls=URLS, **FILES)


def notes(site):
    path = site.root / "notes"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.promise("X5")
def test_after_the_response(tmp_path):
    """The backend for small things needs no service, and follows the status."""
    backend = {"BACKEND": "wsgi_defer.django.tasks.DeferBackend"}
    site = make_site(tmp_path, backend)
    with site.gunicorn() as server:
        assert server.get("/enqueue?task=mail&status=404")[0] == 404
        assert server.get("/enqueue?task=mail")[0] == 200
        until(lambda: len(notes(site)) == 7)
        assert server.get("/enqueue?task=flaky")[0] == 200
        until(lambda: len(notes(site)) == 12)
        assert server.get("/enqueue?task=coroutine")[0] == 200
        until(lambda: len(notes(site)) == 17)
    held = ["enqueued mail READY", "status READY"]
    ran = ["started mail RUNNING", "mail ada", "finished mail SUCCESSFUL"]
    failed = ["started flaky RUNNING", "flaky 1", "finished flaky FAILED"]
    lines = notes(site)
    assert lines[:7] == [*held, *held, *ran]
    assert lines[9:12] == failed
    assert lines[15] == "coroutine"
    assert "deferred call shop.tasks.flaky failed" in site.output


@pytest.mark.promise("X3", "X5")
def test_as_jobs(tmp_path, redis):
    """A worker runs them, and their results can be asked for from anywhere."""
    options = {"url": redis.url, "attempts": 3, "backoff": 0, "queue": "shop"}
    backend = {"BACKEND": "wsgi_defer.django.tasks.JobsBackend", "OPTIONS": options}
    site = make_site(tmp_path, backend)
    with site.gunicorn() as server:

        def result(job_id):
            import json

            status, text = server.get(f"/result/{job_id}")
            return json.loads(text) if status == 200 else status

        refused = server.get("/enqueue?task=mail&status=404")[1]
        later = server.get("/enqueue?task=mail&later=")[1]
        mail = server.get("/enqueue?task=mail")[1]
        flaky = server.get("/enqueue?task=flaky")[1]
        assert result(refused) == 404
        assert result(mail) == {"status": "READY", "task": "mail", "args": ["ada"],
                                "value": None, "attempts": 0, "errors": [],
                                "classes": []}  # fmt: skip
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "wsgi_defer_worker", "--processes", "2"],
            cwd=site.root, env=site.env,
        )  # fmt: skip
        try:
            for job_id in (mail, later, flaky):
                until(lambda job_id=job_id: result(job_id)["status"] == "SUCCESSFUL",
                      lambda: notes(site), OF_PROCESSES)  # fmt: skip
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(OF_PROCESSES) == 0
        assert result(mail)["value"] == ["ada"]
        done = result(flaky)
        assert (done["value"], done["attempts"]) == (2, 2)
    lines = notes(site)
    assert lines.count("mail ada") == 2
    assert [line for line in lines if "flaky" in line] == [
        "enqueued flaky READY", "started flaky RUNNING", "flaky 1",
        "started flaky RUNNING", "flaky 2", "finished flaky SUCCESSFUL",
    ]  # fmt: skip


CODE = """
from django.tasks import task_backends
jobs = task_backends["default"].jobs
payload = {"args": [], "kwargs": {}, "queue": "default", "run_after": None,
           "enqueued_at": None}
for name in ("shop.tasks.no_task", "os.getcwd", "no.such"):
    try:
        with jobs.eager():
            jobs.enqueue("django.task", {**payload, "task": name})
    except ValueError as error:
        print(name, "refused")
"""


def test_only_tasks_run(tmp_path):
    """What is stored cannot name another function."""
    backend = {
        "BACKEND": "wsgi_defer.django.tasks.JobsBackend", "OPTIONS": {"url": None},
    }  # fmt: skip
    site = make_site(tmp_path, backend)
    (tmp_path / "run.py").write_text("import django; django.setup()\n" + CODE)
    env = {**site.env, "DJANGO_SETTINGS_MODULE": "settings"}
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, env=env,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.count("refused") == 3
    assert notes(site) == []
    told = site.manage("wsgi_defer_worker", "--processes", "0", status=2)
    assert "takes a whole number from 1 to 1000, not '0'" in told


def run_code(site, code):
    """Run that in the project; return what it prints."""
    (site.root / "run.py").write_text("import django; django.setup()\n" + code)
    env = {**site.env, "DJANGO_SETTINGS_MODULE": "settings"}
    done = subprocess.run([sys.executable, "run.py"], cwd=site.root, env=env,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout


ENDED_MEANWHILE = """
from django.tasks.signals import task_enqueued
from shop import tasks
from wsgi_defer import deferring

block = deferring()

def end(**more):
    block.__exit__(None, None, None)

task_enqueued.connect(end)
block.__enter__()
tasks.mail.enqueue("ada")
"""


def test_a_scope_that_ends_meanwhile(tmp_path):
    """The task runs once, by the scope that has it."""
    site = make_site(tmp_path, {"BACKEND": "wsgi_defer.django.tasks.DeferBackend"})
    run_code(site, ENDED_MEANWHILE)
    assert notes(site).count("mail ada") == 1


GONE = """
from types import SimpleNamespace
from django.tasks import task_backends
from django.tasks.exceptions import TaskResultDoesNotExist
backend = task_backends["default"]
print(backend.jobs.find("django.task").time_limit)
payload = ('{"task": "shop.tasks.gone", "args": [], "kwargs": {}, "queue": "default", '
           '"run_after": null, "enqueued_at": null}')
backend.jobs.status = lambda job_id: SimpleNamespace(id=job_id, payload=payload)
try:
    backend.get_result("1")
except TaskResultDoesNotExist as error:
    print("does not exist")
"""


def test_a_task_that_is_gone(tmp_path):
    """Its result is, too. The options of all tasks have a time limit."""
    backend = {
        "BACKEND": "wsgi_defer.django.tasks.JobsBackend",
        "OPTIONS": {"url": None, "time_limit": 30},
    }
    site = make_site(tmp_path, backend)
    assert run_code(site, GONE) == "30\ndoes not exist\n"
