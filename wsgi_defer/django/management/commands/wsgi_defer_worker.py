"""``manage.py wsgi_defer_worker``: run the tasks of a ``JobsBackend``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.tasks import task_backends

from ...._runtime.parent import end_with
from ....jobs._supervisor import Supervisor
from ...tasks import JobsBackend


class Command(BaseCommand):
    """Supervises worker processes, or is one of them."""

    help = "Run the tasks of wsgi_defer.django.tasks.JobsBackend until SIGTERM."
    requires_system_checks: Any = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Called by Django."""
        parser.add_argument("--processes", type=int, default=1, metavar="N",
                            help="how many tasks run at the same time (1)")  # fmt: skip
        parser.add_argument("--backend", default="default",
                            help="its name in TASKS (default)")  # fmt: skip
        parser.add_argument("--slot", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--supervisor", type=int, help=argparse.SUPPRESS)

    def handle(
        self,
        *,
        processes: int,
        backend: str,
        slot: int | None,
        supervisor: int | None,
        **options: Any,
    ) -> None:
        """Called by Django."""
        used = task_backends[backend]
        if not isinstance(used, JobsBackend):
            raise CommandError(
                f"TASKS[{backend!r}] is {type(used).__name__}, which needs no worker; "
                "this one is for wsgi_defer.django.tasks.JobsBackend"
            )
        if processes < 1:
            raise CommandError(f"--processes takes 1 or more, not {processes}")
        engine = used.jobs.engine
        if slot is not None:
            if supervisor is not None:
                end_with(supervisor, signal.SIGTERM)
            engine.work(slot, processes)
            engine.close()
            return
        own = engine.own_processes
        engine.close()
        name = options["settings"] or settings.SETTINGS_MODULE
        command = [*program(), "wsgi_defer_worker", "--processes", str(processes),
                   "--backend", backend, "--settings", name]  # fmt: skip
        sys.exit(Supervisor(command, 1 if own else processes).run())


def program() -> list[str]:
    """What this command was started with: ``manage.py``, most likely."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" or not script.is_file():
        return [sys.executable, "-m", "django"]
    return [sys.executable, str(script.resolve())]
