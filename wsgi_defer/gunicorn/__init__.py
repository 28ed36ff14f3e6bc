"""gunicorn's worker classes, made to run deferred calls when the connection is free."""

from .workers import SyncWorker, ThreadWorker

__all__ = ["GeventWorker", "SyncWorker", "ThreadWorker"]


def __getattr__(name: str) -> object:
    # Importing gevent is for those who use it, and comes before all else then.
    if name == "GeventWorker":
        from .gevent import GeventWorker

        return GeventWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
