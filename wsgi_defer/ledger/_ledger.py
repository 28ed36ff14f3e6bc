"""The flight recorder: what workers do and have done, in memory that survives them.

The master makes it before it forks, with a page for each worker. A worker writes what
becomes of its calls on its page. When it is dead, however it died, the master reads
what is left there, and adds its figures to those on the last page, which is its own. A
page has room for ``ENTRIES`` calls at a time; calls above that are counted, without
their names.
"""

from __future__ import annotations

import mmap
import time

from . import _layout as at
from ._entries import Left, by_urgency, read_entry, used_entries
from ._recorder import Recorder, redo
from ._types import OTHER


class Ledger:
    """The shared memory, and which pages are free. For the process that forks.

    Some 300 MB of address space, which becomes memory only where something is written.
    A page that was closed is used again, the first ones first.
    """

    def __init__(self, pages: int = at.PAGES) -> None:
        self.name = ""  # of what these processes serve
        self.started_at = time.time()
        self.memory = mmap.mmap(-1, (pages + 1) * at.PAGE * at.WORD)
        self.numbers = memoryview(self.memory).cast("Q")
        self.last = pages * at.PAGE
        self._free = list(range(pages))[::-1]
        self._records: dict[bytes, int] = {}  # of the last page, by name

    def take_page(self) -> int | None:
        """Reserve a page for a process that is to be forked; None if all are taken."""
        if not self._free:
            return None
        page = self._free.pop()
        used = self.last + at.USED
        self.numbers[used] = max(self.numbers[used], page + 1)
        return page

    def recorder(self, page: int) -> Recorder:
        """What writes that page, for the forked process."""
        return Recorder(self.memory, page)

    def lost_so_far(self) -> int:
        """The calls that were lost in processes whose page is closed."""
        records = figures_by_name(self.memory, self.last).values()
        return sum(figures >> at.LOST * 64 & (1 << 64) - 1 for figures in records)

    def close_page(self, page: int) -> tuple[list[Left], int]:
        """Read what a process that has ended has left, and free its page.

        Returns the calls, the running ones first, and the number of those that had no
        entry. They are counted as lost, and those that were cancelled as skipped. The
        figures of the process become those of the last page.
        """
        start = page * at.PAGE
        if self.numbers[start + at.SEQUENCE] & 1:  # it died in between
            redo(self.numbers, start)
        self.numbers[self.last + at.SEQUENCE] += 1  # until all is done, nobody reads
        try:
            left, unnamed = self._add_page(start)
            if self.numbers[start + at.PID]:
                self._clear(start)
        finally:
            self.numbers[self.last + at.SEQUENCE] += 1
        self._free.append(page)
        self._free.sort(reverse=True)
        return left, unnamed

    def _add_page(self, start: int) -> tuple[list[Left], int]:
        left = []
        now = time.monotonic()  # the same clock for all processes of a machine
        for entry, state in used_entries(self.numbers, start):
            call = read_entry(self.memory, entry, now)
            if call is not None:
                left.append(call)
            begin = entry * at.WORD + at.ENTRY.size - at.NAME - at.REQUEST
            result = at.SKIPPED if state == at.CANCELLED else at.LOST
            self._add(self.memory[begin : begin + at.NAME], 1 << 64 * result)
            self.numbers[entry] = at.FREE
        unnamed = self.numbers[start + at.UNNAMED]
        self._add(OTHER.encode().ljust(at.NAME, b"\0"), unnamed << 64 * at.LOST)
        for name, figures in figures_by_name(self.memory, start).items():
            self._add(name, figures)
        for place in (at.REQUESTS, at.SLOW):
            self.numbers[self.last + place] += self.numbers[start + place]
        self._keep_failures(start)
        left.sort(key=by_urgency)
        return left, unnamed

    def _add(self, name: bytes, figures: int) -> None:
        """Add to the figures of that name: all of them, as one number."""
        if not figures:
            return
        record = self._records.get(name)
        if record is None:
            names = self.last + at.NAMES
            number = self.numbers[names]
            record = self.last + at.RECORDS + number * at.RECORD_WORDS
            if number < at.MOST_NAMES:
                self.memory[record * at.WORD : record * at.WORD + at.NAME] = name
                self._records[name] = record
                self.numbers[names] = number + 1
        begin = (record + at.FIGURES_AT) * at.WORD
        end = begin + at.FIGURES * at.WORD
        figures += int.from_bytes(self.memory[begin:end], "little")
        self.memory[begin:end] = figures.to_bytes(end - begin, "little")

    def _keep_failures(self, start: int) -> None:
        more = failures_of(self.memory, start)
        if not more:
            return
        latest = sorted([*failures_of(self.memory, self.last), *more])
        latest = latest[-at.MOST_FAILURES :]
        for number, failure in enumerate(latest):
            place = self.last + at.FAILURES + number * at.FAILURE_WORDS
            at.FAILURE.pack_into(self.memory, place * at.WORD, *failure)
        self.numbers[self.last + at.FAILURES_EVER] = len(latest)

    def _clear(self, start: int) -> None:
        """Empty a page, where it was written."""
        names = min(self.numbers[start + at.NAMES] + 1, at.MOST_NAMES + 1)
        last = self.numbers[start + at.LAST]  # it stays: what was written is no harm
        records = start + at.RECORDS
        self._zero(records, records + names * at.RECORD_WORDS)
        self._zero(start, start + at.FAILURES)
        self.numbers[start + at.LAST] = last

    def _zero(self, begin: int, end: int) -> None:
        self.memory[begin * at.WORD : end * at.WORD] = bytes((end - begin) * at.WORD)


def figures_by_name(memory: mmap.mmap, start: int) -> dict[bytes, int]:
    """The figures of each name on a page, all of a name as one number.

    These numbers can be added, as none of their words ever overflows. That takes a
    hundredth of the time that their single figures would.
    """
    numbers = memoryview(memory).cast("Q")
    names = numbers[start + at.NAMES]
    records = names + (names == at.MOST_NAMES)  # and that of all others
    found: dict[bytes, int] = {}
    begin = (start + at.RECORDS) * at.WORD
    length = at.RECORD_WORDS * at.WORD
    chunk = memory[begin : begin + records * length]
    for number in range(records):
        at_name = number * length
        figures = at_name + at.FIGURES_AT * at.WORD
        name = chunk[at_name : at_name + at.NAME]
        if number == at.MOST_NAMES:
            name = OTHER.encode().ljust(at.NAME, b"\0")
        value = int.from_bytes(
            chunk[figures : figures + at.FIGURES * at.WORD], "little"
        )
        found[name] = found.get(name, 0) + value
    return found


Record = tuple[float, int, bytes, bytes, bytes, bytes]


def failures_of(memory: mmap.mmap, start: int) -> list[Record]:
    """The failures on a page, the oldest first."""
    number = memoryview(memory).cast("Q")[start + at.FAILURES_EVER]
    return [
        at.FAILURE.unpack_from(
            memory,
            (start + at.FAILURES + each % at.MOST_FAILURES * at.FAILURE_WORDS)
            * at.WORD,
        )
        for each in range(max(0, number - at.MOST_FAILURES), number)
    ]
