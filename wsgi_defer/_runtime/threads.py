"""Threads of this package, and who works for whom.

They start in an empty ``contextvars`` context, as they outlive the request that happens
to start them. Python 3.14 can give a thread the context of its starter, and tools that
patch ``Thread.start()``, such as error trackers, take from it whose thread it is.
"""

from __future__ import annotations

import sys
import threading
from contextvars import Context
from types import FrameType

# By thread that waits for a coroutine: the thread that runs it.
running_for: dict[int, int] = {}


def start(thread: threading.Thread) -> None:
    """Start it. Raises ``RuntimeError`` as ``Thread.start()`` does."""
    Context().run(thread.start)


def runs_here(thread: int) -> bool:
    """Whether what that thread runs is run by this one, maybe as a coroutine."""
    while thread != threading.get_ident():  # gevent may have replaced it
        if thread not in running_for:
            return False
        thread = running_for[thread]
    return True


def frame_of(thread: int) -> FrameType | None:
    """Where that thread is now, or the one that runs a coroutine for it."""
    while (other := running_for.get(thread)) is not None:
        thread = other
    return sys._current_frames().get(thread)
