"""The pools that run in this process, each made when it is first used."""

from __future__ import annotations

import atexit
import os
from typing import Any
from weakref import finalize

from .. import background
from ._kinds import AsyncPool, PoolKind, ProcessPool

# By the id of its kind: the object that the user configures holds no threads, and this
# does not keep it alive. ``_close()`` takes the entry out when that object goes.
running: dict[int, Any] = {}


def opened(kind: PoolKind) -> Any:
    """The pool of that kind in this process: a ``Runner``."""
    return running.get(id(kind)) or _open(kind)


def _open(kind: PoolKind) -> Any:
    """Make the pool. What it needs is imported now, not before."""
    runner: Any
    if isinstance(kind, ProcessPool):
        from ._processes import Processes as runner  # noqa: N813
    elif isinstance(kind, AsyncPool):
        from ._coroutines import Coroutines as runner  # noqa: N813
    else:
        from ._threads import Threads as runner  # noqa: N813
    made = runner(kind.size, kind.max_wait)
    # setdefault: two threads may both be the first.
    first = running.setdefault(id(kind), made)
    if first is made:
        finalize(kind, _close, id(kind), made, os.getpid()).atexit = False
        # Once more, so that it comes before those of what was imported since.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    else:
        made.close()
    return first


def _close(kind_id: int, made: Any, process: int) -> None:
    """The user's object is gone, and so is its pool. The parent's is left alone."""
    if process != os.getpid():
        return
    if running.get(kind_id) is made:
        del running[kind_id]
    made.close()


def _close_all() -> None:
    """The process exits. Its calls may use the pools until the last has run."""
    try:
        background.finish()
    finally:
        for runner in list(running.values()):
            runner.close()


def _start_anew() -> None:
    """In a child process: threads did not come along, and locks may be held."""
    for runner in list(running.values()):
        runner.forget()
    running.clear()


os.register_at_fork(after_in_child=_start_anew)
