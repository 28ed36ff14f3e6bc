"""The app of ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db import transaction

from .._runtime import commits
from ._checks import check_settings
from ._commands import open_scope_for_command


class DeferConfig(AppConfig):
    """Checks the settings, and opens a scope for the command of ``manage.py``."""

    name = "wsgi_defer.django"
    label = "wsgi_defer"
    verbose_name = "wsgi_defer"

    def ready(self) -> None:
        """Called by Django, once, when all apps are loaded."""
        commits.install(lambda fn, using: transaction.on_commit(fn, using=using))
        checks.register(check_settings, "wsgi_defer")
        open_scope_for_command()
