"""Waiting for what should come soon, without sleeping for as long as it might take."""

from __future__ import annotations

import time

PATIENCE = 20  # seconds for what should come; a machine may be busy
OF_PROCESSES = 60  # the same, where processes are started, or end, meanwhile


class InVainError(AssertionError):
    """It did not come."""


def until(condition, what="", patience=PATIENCE):
    """Wait until that is true, and return it.

    ``what`` should come, for the reader of a failure: a text, or a function that
    returns one.
    """
    deadline, pause = time.monotonic() + patience, 0.005
    while True:
        late = time.monotonic() > deadline  # before the last look, not after it
        if found := condition():
            return found
        if late:
            text = what() if callable(what) else what
            raise InVainError(f"waited {patience} s in vain for {text or condition}")
        time.sleep(pause)
        pause = min(pause * 1.1, 0.03)


def at_best(measure, bound, tries=5):
    """The seconds that ``measure()`` returns, as soon as they are less than the bound.

    For what can be as quick as that: the machine may have been busy at the first try.
    """
    taken = []
    while not taken or taken[-1] >= bound:
        assert len(taken) < tries, f"never less than {bound} s: {taken}"
        taken.append(measure())
    return taken[-1]


def whole_lines(text):
    """Those that were written to their end, of a file that somebody writes to."""
    return text.rpartition("\n")[0].splitlines()
