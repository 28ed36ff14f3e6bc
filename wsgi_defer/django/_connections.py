"""Django's database connections around a call: healthy before it, and not left open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


@contextmanager
def tended_connections() -> Iterator[None]:
    """What Django does around a request, around a call, for this thread's connections.

    Afterwards they are kept or closed by ``CONN_MAX_AGE``. A connection that was kept
    is tried before its first use in the call, even without ``CONN_HEALTH_CHECKS``: the
    server may have restarted since the view used it.
    """
    for connection in _free():
        connection.close_if_unusable_or_obsolete()
        connection.health_check_enabled = True
    try:
        yield
    finally:
        for connection in _free():
            checks = connection.settings_dict["CONN_HEALTH_CHECKS"]
            connection.health_check_enabled = checks
            connection.close_if_unusable_or_obsolete()


def _free() -> list[BaseDatabaseWrapper]:
    """Those in use, but not in a transaction that is not the call's: a ``TestCase`` has
    one around it, and a call that ``result()`` runs early is in that of the view."""
    used = connections.all(initialized_only=True)
    return [connection for connection in used if not connection.in_atomic_block]
