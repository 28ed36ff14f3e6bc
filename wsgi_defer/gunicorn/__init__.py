"""gunicorn's worker classes, made to run deferred calls when the connection is free,
and the hooks with which no call is lost silently.

There are three ways to use the hooks::

    # gunicorn.conf.py, if it has no hooks of its own
    from wsgi_defer.gunicorn import *

    # gunicorn.conf.py, if it has some: as the last lines
    from wsgi_defer.gunicorn import install
    install(globals())

    # without gunicorn.conf.py: the hooks, and SyncWorker unless -k names another
    gunicorn -c python:wsgi_defer.gunicorn app:app
"""

from typing import TYPE_CHECKING

# In the master, so that all workers have the same one.
from .._runtime import secret as _secret  # noqa: F401

# gunicorn reads each name in this module that is one of its settings. So only names
# that are meant as settings may match: a module named "workers" would set the number.
from ._hooks import (
    child_exit,
    install,
    on_exit,
    post_worker_init,
    pre_fork,
    worker_abort,
    worker_exit,
)

if TYPE_CHECKING:
    from ._gevent import GeventWorker as GeventWorker
    from ._workers import SyncWorker as SyncWorker
    from ._workers import ThreadWorker as ThreadWorker

# For "-c python:wsgi_defer.gunicorn". It is not in __all__: "import *" must not replace
# what a configuration has set before that line.
worker_class = "wsgi_defer.gunicorn.SyncWorker"

__all__ = [
    "child_exit",
    "install",
    "on_exit",
    "post_worker_init",
    "pre_fork",
    "worker_abort",
    "worker_exit",
]


if not TYPE_CHECKING:  # or every name would be an object to type checkers

    def __getattr__(name: str) -> object:
        # gunicorn reads a configuration before gevent patches anything, so this must
        # not import what the worker classes need.
        if name == "GeventWorker":
            from ._gevent import GeventWorker

            return GeventWorker
        if name in ("SyncWorker", "ThreadWorker"):
            from . import _workers

            return getattr(_workers, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
