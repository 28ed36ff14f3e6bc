"""The moment of an exit at which threads and executors still work.

``atexit`` comes later: ``concurrent.futures`` refuses work then, and since Python 3.12
no thread starts. Children of ``multiprocessing`` never come to it.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - its own hook must come after ours
import sys
import threading
from collections.abc import Callable

_calls: list[Callable[[], object]] = []
_registered = False


def before_exit(call: Callable[[], object]) -> None:
    """Have it called when the main thread has ended, and the process is to exit.

    Other threads that are not daemons may then keep the process for long. Like
    ``concurrent.futures``, this uses a hook of ``threading`` that is not documented; if
    it is not there, nothing is called.
    """
    global _registered
    if call not in _calls:
        _calls.append(call)
    if not _registered:
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            try:
                register(_call_all)
                _registered = True
            except RuntimeError:  # the process is at its exit already
                pass


def forget(call: Callable[[], object]) -> None:
    """Do not call it. No effect if it was not to be called."""
    if call in _calls:
        _calls.remove(call)


def atexit_follows() -> bool:
    """Whether functions of ``atexit`` are called after that."""
    process = sys.modules.get("multiprocessing.process")
    return process is None or process.parent_process() is None


def _call_all() -> None:
    while _calls:
        _calls.pop()()
