"""What cannot be otherwise in the table, each with its one reason.

A key names rows and events, ``*`` stands for any.
"""

from __future__ import annotations

from ..wire.faults import find, matches

__all__ = ["CAN_FINISH", "could_finish", "matches"]

# How many of the three calls can finish, at least, and why not all of them. In every
# cell that is not here, all three can.
CAN_FINISH = {
    ("*", "SIGKILL SIGSEGV"): (1, "the second call is cut off"),
    ("*", "TERM-short"): (1, "there is time for one, and maybe for another"),
    ("*-sync* *-gevent*", "timeout"): (
        1,
        "the second call blocks the thread that would tell the master that it lives",
    ),
    ("*", "timeout-C"): (1, "the second call holds the GIL, so no thread can tell"),
    ("*", "QUIT INT"): (0, "gunicorn's quick shutdown waits for nothing"),
    ("*-gevent*", "HUP-short max-short"): (
        0,
        "gunicorn's gevent worker stops its greenlets after graceful_timeout",
    ),
    ("*-gthread*", "HUP-short max-short"): (
        0,
        "gunicorn's gthread worker ends after graceful_timeout",
    ),
}


def could_finish(row, event):
    """How many of the three calls can finish in that cell."""
    number, _ = find(CAN_FINISH, row, event) or (3, "")
    return number
