"""What waits for the commit of a database transaction: others know of commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol


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


def prepare() -> None:
    """Listen to sessions from now on. Later, the first one that is waited for may be
    in a hook, where SQLAlchemy takes no listeners."""
    with suppress(ImportError):  # too old a SQLAlchemy matters to who uses this
        _sqlalchemy()


def _sqlalchemy() -> Any:
    # Whoever has a session has imported it.
    if "sqlalchemy.orm" in sys.modules:
        return import_module("..sqlalchemy", __package__)
    return None


def wait_for(session: object, committed: Callback, rolled_back: Callback) -> Wait:
    """Call one of the two when the transaction of that session of SQLAlchemy ends.

    Raises ``TypeError`` for anything else.
    """
    adapter = _sqlalchemy()
    if adapter is not None:
        wait: Wait | None = adapter.wait_for(session, committed, rolled_back)
        if wait is not None:
            return wait
    raise TypeError(
        f"after_commit takes a session of SQLAlchemy, not {type(session).__name__}; in "
        "Django, call defer_on_commit(), or jobs.enqueue(..., after_commit=True)"
    )
