"""Writes one page of the ledger: what becomes of each call, and of each request.

Each number is exact whatever ends the process, at whatever line. The end of a call
changes several places at once: its result, two histograms, and its entry. What these
are to hold is written into a journal first. When that is complete, the sequence becomes
odd, and even again when all is done. If the process dies in between, the master does
it.

A lock keeps other threads out. The collector, or the handler of a signal, may come back
in here at any line of the thread that has it; what they report then waits for the end
of that line's work.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, time

from .._calls.call import Call
from .._calls.scope import Scope
from .._runtime.recording import Request
from .._runtime.report import printable
from ..observers._observer import Observer
from . import _layout as at
from ._entries import Left, by_urgency, read_entry
from ._layout import (
    AFTER_RESPONSE,
    BOUNDS,
    FAILED,
    FINISHED,
    FREE,
    IN_REQUEST,
    LOST,
    RAN,
    RAN_SUM,
    RUNNING,
    RUNNING_AFTER,
    SKIPPED,
    WAITED,
    WAITED_SUM,
    WAITING,
    WORD,
)
from ._minute import Minute

_pack_entry = at.ENTRY.pack_into
_pack_pairs = struct.Struct("12Q").pack_into


class Recorder(Observer):
    """Writes one page, in the process that has it. Safe from any thread."""

    def __init__(self, memory: mmap.mmap, page: int) -> None:
        self._memory = memory
        self._numbers = memoryview(memory).cast("Q")
        self._times = memoryview(memory).cast("d")
        self._page = start = page * at.PAGE
        self._last = self._numbers[start + at.LAST]
        self._sequence = start + at.SEQUENCE
        self._journal = (start + at.JOURNAL) * at.WORD  # the byte
        self._requests = start + at.REQUESTS
        self._idle = start + at.IDLE
        self._after = start + at.AFTER
        self._none_named = start + at.UNNAMED
        self._scratch = start + at.SCRATCH
        first = start + at.FIRST_ENTRY
        # What is done with these lists, dicts and sets is atomic.
        self._free = list(
            range(first, first + at.ENTRIES * at.ENTRY_WORDS, at.ENTRY_WORDS)
        )[::-1]
        self._entries: dict[int, tuple[int, str]] = {}  # with what logs call it
        self._unnamed: dict[int, str] = {}
        lanes = start + at.LANES
        self._lanes = list(range(lanes, lanes + at.LANES_AT_ONCE))[::-1]
        self._records: dict[str, int] = {}
        self._minute = Minute(memory, start + at.MINUTE)
        self._lock = threading.RLock()
        self._busy = False  # with what the lock is for
        self._later: list[Callable[[], None]] = []
        self._times[start + at.STARTED] = self._times[start + at.IDLE] = monotonic()
        self._numbers[start + at.PID] = os.getpid()

    # Calls

    def queued(self, call: Call, scope: Scope) -> None:
        label = str(call.label)
        entry = self._fill(call, scope, label)
        if entry:
            self._numbers[entry] = WAITING  # so that no half entry is ever read
        else:
            self._alone(partial(self._note_unnamed, call, label))

    def started(self, call: Call, scope: Scope) -> None:
        found = self._entries.get(id(call))
        running = RUNNING
        if scope.outcome is not None:
            running = RUNNING_AFTER
            self._times[self._after] = scope.sent_at or call.started_at or 0
        if found is not None:
            entry = found[0]
            self._times[entry + 2] = call.started_at or 0
            self._numbers[entry] = running
        elif id(call) in self._unnamed:  # there was no room when it was registered
            self._alone(partial(self._name_it, call, scope, running))

    def finished(self, call: Call, scope: Scope, result: int = FINISHED) -> None:
        # As _alone(), and all in one: each function more would cost every call a tenth.
        with self._lock:
            if self._busy:
                self._later.append(partial(self.finished, call, scope, result))
                return
            try:
                self._busy = True
                sequence = self._numbers[self._sequence]
                if sequence & 1:  # an order to stop came in between
                    sequence = redo(self._numbers, self._page)
                found = self._entries.get(id(call))
                started, ended = call.started_at, call.ended_at
                if found is None or (
                    # It was about to get its entry, when an order to stop came.
                    self._unnamed
                    and id(call) in self._unnamed
                    and self._numbers[found[0]] == FREE
                ):
                    self._end_unnamed(call, result)
                elif started is None or ended is None or result > FAILED:
                    entry, label = found
                    self._count(label, result, entry, FREE)
                    del self._entries[id(call)]
                    self._free.append(entry)
                else:
                    entry, label = found
                    numbers = self._numbers
                    record = self._records.get(label) or self._new_record(label)
                    counter = record + result
                    count = numbers[counter] + 1
                    seconds = started - call.queued_at
                    waited = record + bisect_left(BOUNDS, seconds) + WAITED
                    waited_now = numbers[waited] + 1
                    waited_sum = record + WAITED_SUM
                    waited_sum_now = numbers[waited_sum]
                    if seconds > 0:  # a test may set the clock back
                        waited_sum_now += int(seconds * 1e9)
                    seconds = ended - started
                    ran = record + bisect_left(BOUNDS, seconds) + RAN
                    ran_now = numbers[ran] + 1
                    ran_sum = record + RAN_SUM
                    ran_sum_now = numbers[ran_sum]
                    if seconds > 0:
                        ran_sum_now += int(seconds * 1e9)
                    _pack_pairs(
                        self._memory, self._journal, counter, count,
                        waited, waited_now, waited_sum, waited_sum_now,
                        ran, ran_now, ran_sum, ran_sum_now, entry, FREE,
                    )  # fmt: skip
                    numbers[self._sequence] = sequence + 1
                    numbers[counter] = count
                    numbers[waited] = waited_now
                    numbers[waited_sum] = waited_sum_now
                    numbers[ran] = ran_now
                    numbers[ran_sum] = ran_sum_now
                    numbers[entry] = FREE
                    numbers[self._sequence] = sequence + 2
                    del self._entries[id(call)]
                    self._free.append(entry)
                    if scope.outcome is not None:
                        self._times[self._idle] = ended
                        second, turn, place = self._minute.now
                        if second <= started and ended < turn:  # as most do
                            self._times[place + AFTER_RESPONSE] += ended - started
                        else:
                            self._minute.spread(started, ended, AFTER_RESPONSE)
            finally:
                self._busy = False
        if self._later:
            self._catch_up()

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self._alone(partial(self._note_failure, call, scope, error))
        self.finished(call, scope, FAILED)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self.finished(call, scope, SKIPPED)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self.finished(call, scope, LOST)

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        self._alone(self._note_slow)

    def _alone(self, note: Callable[[], None]) -> None:
        with self._lock:
            if self._busy:
                self._later.append(partial(self._alone, note))
                return
            try:
                self._busy = True
                if self._numbers[self._sequence] & 1:
                    redo(self._numbers, self._page)
                note()
            finally:
                self._busy = False
        if self._later:
            self._catch_up()

    def _catch_up(self) -> None:
        with suppress(IndexError):  # another thread was quicker
            while self._later:
                self._later.pop(0)()

    def _end_unnamed(self, call: Call, result: int) -> None:
        label = self._unnamed.get(id(call))
        if label is not None:
            left = max(self._numbers[self._none_named], 1) - 1
            self._count(label, result, self._none_named, left)
            del self._unnamed[id(call)]
        elif result == LOST:  # an order to stop came while it was registered
            self._count(str(call.label), result, self._scratch, 0)
        # Any other is from before somebody recorded, or of the parent process.

    def _count(self, label: str, result: int, place: int, value: int) -> None:
        """Count one call more, and set a place, both or none."""
        counter = result + (self._records.get(label) or self._new_record(label))
        self._set_both(counter, self._numbers[counter] + 1, place, value)

    def _set_both(self, place: int, value: int, other: int, its_value: int) -> None:
        numbers = self._numbers
        _pack_pairs(
            self._memory, self._journal, place, value, other, its_value,
            *(self._scratch, 0) * 4,
        )  # fmt: skip
        numbers[self._sequence] += 1
        numbers[place] = value
        numbers[other] = its_value
        numbers[self._sequence] += 1

    def _new_record(self, label: str) -> int:
        names = self._page + at.NAMES
        number = min(self._numbers[names], at.MOST_NAMES)
        record = self._page + at.RECORDS + number * at.RECORD_WORDS
        if number < at.MOST_NAMES:
            _NAME.pack_into(self._memory, record * at.WORD, at.packed(label))
            self._numbers[names] = number + 1
            self._records[label] = record + at.FIGURES_AT
        return record + at.FIGURES_AT

    def _fill(self, call: Call, scope: Scope, label: str) -> int:
        """Write an entry that is still free; 0 if there is no room."""
        try:
            entry = self._free.pop()
        except IndexError:
            return 0
        if entry > self._last:
            self._last = self._numbers[self._page + at.LAST] = entry
        self._entries[id(call)] = entry, label
        _pack_entry(
            self._memory, entry * WORD, FREE, call.queued_at, call.started_at or 0,
            label.encode(errors="replace"), scope.request_id.encode(errors="replace"),
        )  # fmt: skip
        call.changed = self._change
        return entry

    def _note_unnamed(self, call: Call, label: str) -> None:
        self._unnamed[id(call)] = label
        self._numbers[self._none_named] += 1

    def _name_it(self, call: Call, scope: Scope, running: int) -> None:
        """It starts, and there may be room for its name now."""
        entry = self._fill(call, scope, str(call.label))
        if not entry:
            return
        left = max(self._numbers[self._none_named], 1) - 1
        self._set_both(entry, running, self._none_named, left)
        del self._unnamed[id(call)]

    def _change(self, call: Call) -> None:
        found = self._entries.get(id(call))
        if found is None:
            return
        entry = found[0]
        if call.pending or call.started_at is not None:
            label = str(call.label)
            self._entries[id(call)] = entry, label
            name = entry * at.WORD + at.ENTRY.size - at.NAME - at.REQUEST
            _NAME.pack_into(self._memory, name, at.packed(label))
        else:  # cancelled, and so not lost
            self._numbers[entry] = at.CANCELLED

    def _note_failure(self, call: Call, scope: Scope, error: BaseException) -> None:
        failed = self._page + at.FAILURES_EVER
        number = self._numbers[failed]
        failure = at.FAILURES + number % at.MOST_FAILURES * at.FAILURE_WORDS
        at.FAILURE.pack_into(
            self._memory, (self._page + failure) * at.WORD, time(), os.getpid(),
            at.packed(str(call.label)), at.packed(printable(type(error).__name__)),
            at.packed(call.origin)[-200:], at.packed(scope.request_id),
        )  # fmt: skip
        self._numbers[failed] = number + 1

    def _note_slow(self) -> None:
        self._numbers[self._page + at.SLOW] += 1

    # Requests. No lock: CPython changes threads, and runs handlers and the collector,
    # at calls and at jumps, and so not within a line that adds to a number.

    def begin(self, began: float) -> int:
        """A request begins; see ``_runtime.recording``."""
        try:
            lane = self._lanes.pop()
        except IndexError:
            return 0
        self._times[lane] = began
        return lane

    def end(self, request: Request, began: float) -> None:
        """Its response has ended."""
        lane = request.lane
        if lane is None:
            return
        request.lane = None
        now = monotonic()
        self._numbers[self._requests] += 1
        times = self._times
        second, turn, place = self._minute.now
        if second <= began and now < turn:  # as most do
            times[place + IN_REQUEST] += now - began
        else:
            self._minute.spread(began, now, IN_REQUEST)
        if lane:
            times[lane] = -now
            self._lanes.append(lane)

    def stopping(self) -> None:
        """The worker was told to stop. May be called in the handler of a signal."""
        if not self._times[self._page + at.STOPPING]:
            self._times[self._page + at.STOPPING] = monotonic()

    # For this process

    def left(self) -> tuple[list[Left], int]:
        """What has not ended so far, as ``Ledger.close_page()`` returns it."""
        now = monotonic()
        # A copy, as other threads add to it.
        entries = [entry for entry, _ in [*self._entries.values()]]
        found = [read_entry(self._memory, entry, now) for entry in entries]
        left = [call for call in found if call is not None]
        return sorted(left, key=by_urgency), self._numbers[self._none_named]

    def forget(self) -> None:
        """In a child process: the page is not its own."""
        self._entries.clear()
        self._unnamed.clear()


_NAME = struct.Struct(f"{at.NAME}s")


def redo(numbers: memoryview, page: int) -> int:
    """Do what the journal of a page says, once more. It may have been done in part."""
    journal = numbers[page + at.JOURNAL : page + at.JOURNAL + 12].tolist()
    for place, value in zip(journal[::2], journal[1::2], strict=True):
        numbers[place] = value
    numbers[page + at.SEQUENCE] += 1
    return numbers[page + at.SEQUENCE]
