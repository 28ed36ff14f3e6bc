"""What waits for the commit of a database transaction: the framework knows of it."""

from __future__ import annotations

from collections.abc import Callable

# Runs a function when the transaction of that database commits, or at once.
OnCommit = Callable[[Callable[[], object], "str | None"], object]
_installed: list[OnCommit] = []


def install(on_commit: OnCommit) -> None:
    """Let the framework of this process do it."""
    _installed[:] = [on_commit]


def on_commit(fn: Callable[[], object], using: str | None) -> None:
    """Run it when the transaction has committed. Raises ``RuntimeError`` if nothing
    here knows of transactions."""
    if not _installed:
        raise RuntimeError(
            "after_commit=True needs a framework that knows of commits; in Django, put "
            "'wsgi_defer.django' into INSTALLED_APPS"
        )
    _installed[0](fn, using)
