"""The entries of a page: a call each, while it waits or runs."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from . import _layout as at


class Left(NamedTuple):
    """A call that was left when its process ended.

    ``since`` is the number of seconds since it started, or since it was registered if
    it had not started.
    """

    name: str
    request_id: str
    running: bool
    since: float


def read_entry(memory: mmap.mmap, entry: int, now: float) -> Left | None:
    """The call that has this entry; None if it is free, or its call cancelled."""
    state, queued, began, name, request = at.ENTRY.unpack_from(memory, entry * at.WORD)
    if state in (at.FREE, at.CANCELLED):
        return None
    running = state != at.WAITING
    since = now - (began if running else queued)
    return Left(at.text_of(name), at.text_of(request), running, since)


def by_urgency(call: Left) -> tuple[bool, float]:
    """The running ones first, and of those and of the others, the oldest."""
    return not call.running, -call.since


def used_entries(numbers: memoryview, page: int) -> list[tuple[int, int]]:
    """The entries that are not free, each with its state."""
    first, last = page + at.FIRST_ENTRY, numbers[page + at.LAST]
    states = numbers[first : last + 1 : at.ENTRY_WORDS].tolist()
    return [
        (first + number * at.ENTRY_WORDS, state)
        for number, state in enumerate(states)
        if state
    ]
