"""What waits for the commit of a database transaction: others know of commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Protocol


class Wait(Protocol):
    """For the end of a transaction."""

    @property
    def idle(self) -> bool:
        """Whether the session does nothing yet: its next transaction counts."""

    def abandon(self, why: str) -> None:
        """Wait no longer, if it is idle."""


Callback = Callable[[], object]
# Runs a function when the transaction of that database commits, or at once.
OnCommit = Callable[[Callback, "str | None"], object]
_installed: list[OnCommit] = []


def install(on_commit: OnCommit) -> None:
    """Let the framework of this process do it."""
    _installed[:] = [on_commit]


def on_commit(fn: Callback, using: str | None) -> None:
    """Run it when the transaction has committed. Raises ``RuntimeError`` if nothing
    here knows of transactions."""
    if not _installed:
        raise RuntimeError(
            "after_commit=True needs a framework that knows of commits; in Django, put "
            "'wsgi_defer.django' into INSTALLED_APPS. With SQLAlchemy, write "
            "after_commit=session"
        )
    _installed[0](fn, using)


def wait_for(session: object, committed: Callback, rolled_back: Callback) -> Wait:
    """Call one of the two when the transaction of that session of SQLAlchemy ends.

    Raises ``TypeError`` for anything else.
    """
    if "sqlalchemy.orm" in sys.modules:  # whoever has a session has imported it
        adapter = import_module("..sqlalchemy", __package__)
        wait: Wait | None = adapter.wait_for(session, committed, rolled_back)
        if wait is not None:
            return wait
    raise TypeError(
        f"after_commit takes a session of SQLAlchemy, not {type(session).__name__}; in "
        "Django, call defer_on_commit(), or jobs.enqueue(..., after_commit=True)"
    )
