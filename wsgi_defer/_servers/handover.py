"""Calls that are handed over, to run when the connection is closed or free again.

Our worker classes for gunicorn, and uWSGI's hook, run them in the thread that served
the request. Until then they are a list of drains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .. import background
from .._calls.drain import report_lost
from .._runtime import host
from ..background import Drain

_handed_over: ContextVar[list[Drain] | None] = ContextVar(
    "wsgi_defer.handed_over", default=None
)


@contextmanager
def handed_over() -> Iterator[list[Drain]]:
    """Collect the drains of the requests that are served inside the block."""
    drains: list[Drain] = []
    token = _handed_over.set(drains)
    try:
        yield drains
    finally:
        _handed_over.reset(token)


def taking() -> Callable[[Drain], object] | None:
    """What takes a drain of the request served here; None outside such a block."""
    drains = _handed_over.get()
    return None if drains is None else drains.append


def run_drains(drains: list[Drain]) -> None:
    """Run what was handed over, in turn. Raises only gunicorn's order to stop; the
    calls that it cuts off are lost."""
    while drains:
        scope, outcome, _ = drains.pop(0)
        try:
            background.drain_here(scope, outcome)
        except BaseException:
            report_lost_drains(drains)
            raise


def report_lost_drains(drains: list[Drain], *, running: bool = True) -> None:
    """The calls of these drains will not run; or not to their end, if ``running``."""
    for scope, _, _ in drains:
        report_lost(scope, host.current.why, running=running)
