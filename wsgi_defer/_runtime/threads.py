"""Threads of this package: they start in an empty ``contextvars`` context.

They outlive the request that happens to start them. Python 3.14 can give a thread the
context of its starter, and tools that patch ``Thread.start()``, such as error trackers,
take from that context whose thread it is.
"""

from __future__ import annotations

import threading
from contextvars import Context


def start(thread: threading.Thread) -> None:
    """Start it. Raises ``RuntimeError`` as ``Thread.start()`` does."""
    Context().run(thread.start)
