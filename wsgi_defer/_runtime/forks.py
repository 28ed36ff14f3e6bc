"""Processes that user code forks: they end where that code ends.

Otherwise such a process would keep running as a second worker: with the same calls, on
the same connections.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Of this process. Kept, because to ask is a system call, and every request would. Where
# a server forks without telling Python, as uWSGI may, it is that of the parent, and so
# it is for all that is compared with it.
process = os.getpid()


def _note_process() -> None:
    global process
    process = os.getpid()


os.register_at_fork(after_in_child=_note_process)


@contextmanager
def no_fork_leaves() -> Iterator[None]:
    """End a process that was forked inside the block, before it leaves the block."""
    before = process
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if process != before:
            end_fork(error)
        del error  # frame cycle


def end_fork(error: BaseException | None = None) -> None:
    """End this process, which was forked. Its exit status is that of a program: 2 for
    ``sys.exit(2)``, 1 for an error, which is printed."""
    status = 1
    with suppress(BaseException):
        status = exit_status(error)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def exit_status(error: BaseException | None) -> int:
    """Print an error, since nobody else does; return the exit status."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return int(error.code or 0) & 0xFF
    if error is not None:
        traceback.print_exception(error)
    return int(error is not None)
