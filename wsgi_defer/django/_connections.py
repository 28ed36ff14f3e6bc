"""Django's database connections around a call: healthy before it, and not left open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .._calls.scope import get_current


class _Here(threading.local):
    tended = False


_here = _Here()


@contextmanager
def tended_connections() -> Iterator[None]:
    """What Django does around a request, around a call, for this thread's connections.

    Afterwards they are kept or closed by ``CONN_MAX_AGE``. A connection that was kept
    is tried before its first use in the call, even without ``CONN_HEALTH_CHECKS``: the
    server may have restarted since the view used it.

    If other code of this thread is in the middle of its work, they are its own, and
    stay as they are: it may read from a cursor while ``result()`` runs the call.
    """
    if _here.tended or _is_inside():
        with _own_thread_of_coroutines():
            yield
        return
    _here.tended = True
    for connection in _free():
        connection.close_if_unusable_or_obsolete()
        connection.health_check_enabled = True
    try:
        with _own_thread_of_coroutines():
            yield
    finally:
        _here.tended = False
        for connection in _free():
            checks = connection.settings_dict["CONN_HEALTH_CHECKS"]
            connection.health_check_enabled = checks
            connection.close_if_unusable_or_obsolete()


@contextmanager
def _own_thread_of_coroutines() -> Iterator[None]:
    """End the thread, with its connections, on which Django's asynchronous methods run
    in a deferred coroutine. The same one would serve the whole process for ever."""
    here = ThreadSensitiveContext()
    token = SyncToAsync.thread_sensitive_context.set(here)
    try:
        yield
    finally:
        SyncToAsync.thread_sensitive_context.reset(token)
        executor = SyncToAsync.context_to_thread_executor.pop(here, None)
        if executor is not None:
            executor.submit(connections.close_all).result()
            executor.shutdown()


def _is_inside() -> bool:
    """Whether a view, its response or a command of this thread has not ended."""
    thread, scope = threading.get_ident(), get_current()
    while scope is not None:
        if scope.thread == thread and scope.outcome is None:
            return True
        scope = scope.outer
    return False


def _free() -> list[BaseDatabaseWrapper]:
    """Those in use, but not in a transaction that is not the call's: a ``TestCase`` has
    one around it, and a call that ``result()`` runs early is in that of the view."""
    used = connections.all(initialized_only=True)
    return [connection for connection in used if not connection.in_atomic_block]
