"""gunicorn's worker classes, made to run deferred calls when the connection is free,
and the hooks by which nothing is lost in silence.

The hooks go into gunicorn.conf.py, in one of three ways::

    from wsgi_defer.gunicorn import *          # if it has no hooks of its own

    from wsgi_defer.gunicorn import install    # if it has some: as the last lines
    install(globals())

    gunicorn -c python:wsgi_defer.gunicorn app:app
"""

# gunicorn takes every name in here that is one of its settings, so none may be that
# is not meant so; a module named "workers" would be the number of workers.
from ._hooks import (
    child_exit,
    install,
    on_exit,
    post_worker_init,
    pre_fork,
    worker_abort,
    worker_exit,
)

__all__ = [
    "child_exit",
    "install",
    "on_exit",
    "post_worker_init",
    "pre_fork",
    "worker_abort",
    "worker_exit",
]


def __getattr__(name: str) -> object:
    # A configuration is read before gevent has replaced what it replaces, so it must
    # not load what the worker classes need.
    if name == "GeventWorker":
        from ._gevent import GeventWorker

        return GeventWorker
    if name in ("SyncWorker", "ThreadWorker"):
        from . import _workers

        return getattr(_workers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
