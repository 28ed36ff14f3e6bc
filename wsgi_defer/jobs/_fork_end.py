"""The end of a process that a handler has forked."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def no_fork_leaves() -> Iterator[None]:
    """End a process that was forked inside the block where it would leave the block.

    It would go on as a second worker: with the same job, on the same connections.
    Its exit status is that of a program: of ``sys.exit(2)``, 2; of an error, 1.
    """
    process = os.getpid()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if os.getpid() != process:
            status = 1
            with suppress(BaseException):
                status = told(error)
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def told(error: BaseException | None) -> int:
    """The exit status; an error is shown, since nobody else does it."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return int(error.code or 0) & 0xFF
    if error is not None:
        traceback.print_exception(error)
    return int(error is not None)
