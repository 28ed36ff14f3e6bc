"""A scope for the command that ``manage.py`` runs."""

from __future__ import annotations

import sys
from functools import wraps
from inspect import signature
from threading import get_ident
from typing import Any

from django.conf import settings
from django.core.management import ManagementUtility
from django.core.management.base import BaseCommand

from .._request.block import deferring
from ._options import around

OWN_SCOPES = ("django.", "wsgi_defer.")  # commands that only start something


def open_scope_for_command() -> None:
    """Wrap the command that is about to run, if this is ``manage.py``.

    Django says nowhere that a command begins. But this is called by the object that
    runs it, and that object alone is changed.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, ManagementUtility):
            _wrap(runner)
            return
        frame = frame.f_back


def _wrap(runner: ManagementUtility) -> None:
    fetch_command = runner.fetch_command

    def fetch_in_scope(subcommand: str) -> BaseCommand:
        command = fetch_command(subcommand)
        if not type(command).__module__.startswith(OWN_SCOPES):
            run_in_scope(command)
        return command

    runner.fetch_command = fetch_in_scope  # type: ignore[method-assign]


def run_in_scope(command: BaseCommand) -> None:
    """Let this command run its deferred calls when it has succeeded."""
    execute = command.execute

    @wraps(execute)
    def execute_in_scope(*args: Any, **options: Any) -> str | None:
        given: dict[str, Any] = dict(getattr(settings, "WSGI_DEFER", {}))
        known = signature(deferring).parameters
        chosen = {name: given[name] for name in given if name in known}
        chosen["around"] = around(given.get("around"))
        with deferring(**chosen) as scope:
            scope.thread = get_ident()
            output: str | None = execute(*args, **options)
        return output

    command.execute = execute_in_scope  # type: ignore[method-assign]
