"""The figures of this moment; and of which ledger."""

from __future__ import annotations

import os
import threading

from .._runtime import recording
from ..observers._observers import observe_process, stop_observing
from ._ledger import Ledger
from ._reader import read
from ._recorder import Recorder
from ._types import Snapshot


class _Known:
    """What this process knows: its master's ledger, or one of its own, or none."""

    def __init__(self) -> None:
        self.shared: Ledger | None = None
        self.listeners: list[int] = []
        self.own: Ledger | None = None
        self.recorder: Recorder | None = None  # of its own one
        self.lock = threading.RLock()

    def record(self) -> None:
        with self.lock:
            if self.shared is None and self.own is None:
                self.own = Ledger(pages=1)
                self.recorder = self.own.recorder(self.own.take_page() or 0)
                observe_process(self.recorder)
                recording.install(self.recorder)

    def stop(self) -> None:
        if self.recorder is not None:
            self.recorder.forget()
            stop_observing(self.recorder)
            recording.install(None)
        self.own = self.recorder = None

    def after_fork(self) -> None:
        self.lock = threading.RLock()
        if self.own is not None:
            self.stop()
            self.record()


_known = _Known()
os.register_at_fork(after_in_child=_known.after_fork)


def share(ledger: Ledger) -> None:
    """In gunicorn's master: it and the processes that it forks have this ledger."""
    _known.stop()
    _known.shared = ledger


def listen(listeners: list[int]) -> None:
    """In a worker: the file descriptors of the sockets that all workers listen on."""
    _known.listeners = listeners


def record() -> None:
    """Record what becomes of calls in this process, from now on, if nobody does yet.

    Under gunicorn with the hooks of ``wsgi_defer.gunicorn``, everything is recorded
    anyway, and this does nothing. Elsewhere the first ``snapshot()`` does it. A process
    that is forked begins anew.
    """
    _known.record()


def snapshot() -> Snapshot:
    """The figures of all workers of this gunicorn; without our hooks, of this process.

    Any process of the same master may ask, in any thread. Without our hooks, recording
    begins with the first snapshot, or with ``record()``.

    Two figures are known only from snapshots: ``queue_longest`` is the longest queue
    that any has found, and ``all_busy`` how often one found all workers busy, and
    clients waiting, when the one before did not.
    """
    _known.record()
    ledger = _known.shared or _known.own
    assert ledger is not None
    return read(ledger, whole=_known.shared is not None, listeners=_known.listeners)
