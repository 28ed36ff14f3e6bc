"""What the workers do and have done: ``snapshot()``, from any process of one gunicorn.

The figures live in memory that the master shares with its workers, so they survive
each worker, however it ends. Nothing is written to a file.
"""

from ._entries import Left
from ._layout import ENTRIES, NAME, PAGES, REQUEST
from ._ledger import Ledger
from ._openmetrics import CONTENT_TYPE, openmetrics
from ._recorder import Recorder
from ._snapshot import record, snapshot
from ._types import CallFigures, Failure, Histogram, Snapshot, WorkerFigures

__all__ = [
    "CONTENT_TYPE",
    "ENTRIES",
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
    "openmetrics",
    "record",
    "snapshot",
]
