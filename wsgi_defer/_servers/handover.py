"""Calls that are handed over, to run when the connection is closed or free again.

Our worker classes for gunicorn, and uWSGI's hook, run them in the thread that served
the request. Until then they are a list of drains.
"""

from __future__ import annotations

from contextvars import ContextVar

from .. import background
from .._calls.drain import report_lost
from .._runtime import host
from ..background import Drain

_handed_over: ContextVar[list[Drain] | None] = ContextVar(
    "wsgi_defer.handed_over", default=None
)
# What the request served here has handed over so far; None where no slot is open. Bound
# once, as each response with calls asks.
handed_over = _handed_over.get
# Sets the list for the drains of the request that is served next, in this context. None
# afterwards: what ends later is not handed over. Each request pays for this, so it is
# no context manager, and has no frame of Python.
set_slot = _handed_over.set


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
