"""What cannot be otherwise in the table, each with its one reason.

A key names rows and events, ``*`` stands for any.
"""

from __future__ import annotations

from ..wire.faults import find, matches

__all__ = ["CAN_FINISH", "OWN", "could_finish", "matches", "own"]

# How many of the three calls can finish, at least, and why not all of them. In every
# cell that is not here, all three can.
CAN_FINISH = {
    ("*", "SIGKILL SIGSEGV"): (1, "the second call is cut off"),
    ("*", "TERM-short"): (1, "there is time for one"),
    ("*-sync* *-gevent*", "timeout"): (
        1,
        "the second call blocks the thread that would tell the master that it lives",
    ),
    ("*", "timeout-C"): (1, "the second call holds the GIL, so no thread can tell"),
    ("*-sync*", "QUIT INT"): (
        0,
        "gunicorn's quick shutdown raises SystemExit in the main thread",
    ),
    ("*-gevent* *-gthread* *-background", "HUP-short max-short"): (
        0,
        "the worker waits for its threads and greenlets for graceful_timeout",
    ),
}

# Faults that gunicorn has with nothing deferred, too, as a test proves.
OWN = {
    ("*-gevent*", "HUP-short"): (
        "extra",
        "gunicorn's gevent worker sends an error page on connections that are kept "
        "alive and idle when graceful_timeout ends",
    ),
}


def could_finish(row, event):
    """How many of the three calls can finish in that cell."""
    number, _ = find(CAN_FINISH, row, event) or (3, "")
    return number


def own(row, event):
    """The fault that is gunicorn's own in that cell, or the empty word."""
    word, _ = find(OWN, row, event) or ("", "")
    return word
