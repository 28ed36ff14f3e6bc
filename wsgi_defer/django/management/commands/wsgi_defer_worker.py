"""``manage.py wsgi_defer_worker``: run stored tasks, or the jobs of a ``Jobs``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ....errors import DeferError
from ....jobs import Jobs
from ....jobs._command import reload
from ....jobs._command.arguments import add_worker, passed_on
from ....jobs._command.main import is_child
from ....jobs._command.worker import work
from ....jobs._supervisor import Supervisor
from ....jobs._target import Refusal, load
from ..._connections import tended_connections


class Command(BaseCommand):
    """Supervises worker processes, or is one of them."""

    help = "Run the tasks of a JobsBackend, or the jobs of a Jobs, until SIGTERM."
    requires_system_checks: Any = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Called by Django."""
        parser.add_argument("target", nargs="?", metavar="MODULE:JOBS",
                            help="a Jobs object, such as shop.jobs:jobs, "
                                 "in place of a backend of TASKS")  # fmt: skip
        parser.add_argument("--backend", default="default",
                            help="its name in TASKS (default)")  # fmt: skip
        add_worker(parser)

    def handle(self, *, target: str | None, backend: str, **options: Any) -> None:
        """Called by Django."""
        jobs = jobs_of_tasks(backend) if target is None else jobs_at(target)
        given = argparse.Namespace(**options, imports=[])
        name = options["settings"] or settings.SETTINGS_MODULE
        path = options["pythonpath"]
        given.again = [*program(), "wsgi_defer_worker", *([target] if target else []),
                       "--backend", backend, "--settings", name,
                       *(["--pythonpath", path] if path else []),
                       *passed_on(given)]  # fmt: skip
        if given.reload and given.slot is None:
            sys.exit(reload.run(given.again))
        try:
            sys.exit(work(jobs, given))
        except DeferError as error:
            status = Supervisor.HOPELESS if is_child(given, error) else 1
            raise CommandError(str(error), returncode=status) from error


def jobs_of_tasks(backend: str) -> Jobs:
    """Those of Django's tasks."""
    if django.VERSION < (6, 0):
        raise CommandError(
            "Django has tasks from 6.0 on; name a Jobs object, such as shop.jobs:jobs"
        )
    from django.tasks import task_backends

    from ...tasks import JobsBackend

    used = task_backends[backend]
    if not isinstance(used, JobsBackend):
        raise CommandError(
            f"TASKS[{backend!r}] is {type(used).__name__}, which needs no worker; this "
            "one is for wsgi_defer.django.tasks.JobsBackend"
        )
    return used.jobs


def jobs_at(target: str) -> Jobs:
    """Those of the app's own, whose handlers get healthy database connections."""
    try:
        jobs = load(target)
    except (Refusal, ValueError) as error:
        raise CommandError(str(error)) from error
    if not jobs.names:
        raise CommandError(f"{target} has no handlers; import the modules with them")
    jobs.init_app(SimpleNamespace(extensions={}, app_context=tended_connections))
    return jobs


def program() -> list[str]:
    """What this command was started with: ``manage.py``, most likely."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" or not script.is_file():
        return [sys.executable, "-m", "django"]
    return [sys.executable, str(script.resolve())]
