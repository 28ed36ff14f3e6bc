"""What the workers do and have done: ``snapshot()``, from any process of one gunicorn.

The figures live in memory that the master shares with its workers, so they survive
each worker, however it ends. Nothing is written to a file.
"""

from ._ledger import ENTRIES, ENTRY, NAME, PAGES, REQUEST, Ledger, Left, Recorder
from ._snapshot import snapshot
from ._types import CallFigures, Failure, Histogram, Snapshot, WorkerFigures

__all__ = [
    "ENTRIES",
    "ENTRY",
    "NAME",
    "PAGES",
    "REQUEST",
    "CallFigures",
    "Failure",
    "Histogram",
    "Ledger",
    "Left",
    "Recorder",
    "Snapshot",
    "WorkerFigures",
    "snapshot",
]
