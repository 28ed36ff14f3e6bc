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
from .._runtime.report import printable
from ..observers._observer import Observer
from . import _layout as at
from ._entries import Left, by_urgency, read_entry
from ._minute import Minute

_PAIRS = struct.Struct("12Q")


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
        if entry is None:
            self._alone(partial(self._note_unnamed, call, label))
        else:
            self._numbers[entry] = at.WAITING  # so that no half entry is ever read

    def started(self, call: Call, scope: Scope) -> None:
        found = self._entries.get(id(call))
        running = at.RUNNING
        if scope.outcome is not None:
            running = at.RUNNING_AFTER
            self._times[self._page + at.AFTER] = scope.sent_at or call.started_at or 0
        if found is not None:
            entry = found[0]
            self._times[entry + 2] = call.started_at or 0
            self._numbers[entry] = running
        elif id(call) in self._unnamed:  # there was no room when it was registered
            self._alone(partial(self._name_it, call, scope, running))

    def finished(self, call: Call, scope: Scope) -> None:
        self._end(call, scope, at.FINISHED)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self._alone(partial(self._note_failure, call, scope, error))
        self._end(call, scope, at.FAILED_CALLS)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._end(call, scope, at.SKIPPED)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._end(call, scope, at.LOST)

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        self._alone(self._note_slow)

    def _end(self, call: Call, scope: Scope, result: int) -> None:
        with self._lock:  # as _alone(), without two frames more for each call
            if self._busy:
                self._later.append(partial(self._end, call, scope, result))
                return
            try:
                self._busy = True
                self._note_end(call, scope, result)
            finally:
                self._busy = False
        if self._later:
            self._catch_up()

    def _alone(self, note: Callable[[], None]) -> None:
        with self._lock:
            if self._busy:
                self._later.append(partial(self._alone, note))
                return
            try:
                self._busy = True
                note()
            finally:
                self._busy = False
        if self._later:
            self._catch_up()

    def _catch_up(self) -> None:
        with suppress(IndexError):  # another thread was quicker
            while self._later:
                self._later.pop(0)()

    def _note_end(self, call: Call, scope: Scope, result: int) -> None:
        numbers = self._numbers
        if numbers[self._sequence] & 1:  # an order to stop came in between
            redo(numbers, self._page)
        key = id(call)
        found = self._entries.get(key)
        if found is not None:
            entry, label = found
            entry_now = at.FREE
        elif key in self._unnamed:
            entry, label = self._page + at.UNNAMED, self._unnamed[key]
            entry_now = len(self._unnamed) - 1
        else:  # it was registered before anybody recorded, or by the parent process
            return
        record = self._records.get(label) or self._new_record(label)
        counter = record + result
        count = numbers[counter] + 1
        started = call.started_at
        if started is None or result == at.SKIPPED or result == at.LOST:
            waited = ran = waited_sum = ran_sum = self._scratch
            waited_now = ran_now = waited_sum_now = ran_sum_now = 0
        else:
            seconds = started - call.queued_at
            waited = record + at.WAITED + bisect_left(at.BOUNDS, seconds)
            waited_sum = record + at.WAITED_SUM
            waited_now = numbers[waited] + 1
            waited_sum_now = numbers[waited_sum] + _nanoseconds(seconds)
            ended = call.ended_at or started
            seconds = ended - started
            ran = record + at.RAN + bisect_left(at.BOUNDS, seconds)
            ran_sum = record + at.RAN_SUM
            ran_now = numbers[ran] + 1
            ran_sum_now = numbers[ran_sum] + _nanoseconds(seconds)
            if scope.outcome is not None:
                self._minute.add(started, ended, at.AFTER_RESPONSE)
                self._times[self._page + at.IDLE] = ended
        _PAIRS.pack_into(
            self._memory, self._journal, counter, count, waited, waited_now,
            waited_sum, waited_sum_now, ran, ran_now, ran_sum, ran_sum_now,
            entry, entry_now,
        )  # fmt: skip
        numbers[self._sequence] += 1
        numbers[counter] = count
        numbers[waited] = waited_now
        numbers[waited_sum] = waited_sum_now
        numbers[ran] = ran_now
        numbers[ran_sum] = ran_sum_now
        numbers[entry] = entry_now
        numbers[self._sequence] += 1
        if found is not None:
            del self._entries[key]
            self._free.append(entry)
        else:
            del self._unnamed[key]

    def _new_record(self, label: str) -> int:
        names = self._page + at.NAMES
        number = min(self._numbers[names], at.MOST_NAMES)
        record = self._page + at.RECORDS + number * at.RECORD_WORDS
        if number < at.MOST_NAMES:
            _NAME.pack_into(self._memory, record * at.WORD, at.packed(label))
            self._numbers[names] = number + 1
            self._records[label] = record + at.FIGURES_AT
        return record + at.FIGURES_AT

    def _fill(self, call: Call, scope: Scope, label: str) -> int | None:
        """Write an entry that is still free; None if there is no room."""
        try:
            entry = self._free.pop()
        except IndexError:
            return None
        if entry > self._last:
            self._last = self._numbers[self._page + at.LAST] = entry
        self._entries[id(call)] = entry, label
        at.ENTRY.pack_into(
            self._memory, entry * at.WORD, at.FREE, call.queued_at,
            call.started_at or 0, at.packed(label), at.packed(scope.request_id),
        )  # fmt: skip
        call.changed = self._change
        return entry

    def _note_unnamed(self, call: Call, label: str) -> None:
        self._unnamed[id(call)] = label
        self._numbers[self._page + at.UNNAMED] = len(self._unnamed)

    def _name_it(self, call: Call, scope: Scope, running: int) -> None:
        """It starts, and there may be room for its name now."""
        entry = self._fill(call, scope, str(call.label))
        if entry is None:
            return
        numbers, unnamed = self._numbers, self._page + at.UNNAMED
        del self._unnamed[id(call)]
        left, nothing = len(self._unnamed), self._scratch
        _PAIRS.pack_into(
            self._memory, self._journal, entry, running, unnamed, left,
            *(nothing, 0) * 4,
        )  # fmt: skip
        numbers[self._sequence] += 1
        numbers[entry] = running
        numbers[unnamed] = left
        numbers[self._sequence] += 1

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
        failed = self._page + at.FAILED
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

    def end(self, lane: int, began: float) -> None:
        """Its response has ended."""
        now = monotonic()
        self._numbers[self._requests] += 1
        self._minute.add(began, now, at.IN_REQUEST)
        if lane:
            self._times[lane] = -now
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
        return sorted(left, key=by_urgency), len(self._unnamed)

    def forget(self) -> None:
        """In a child process: the page is not its own."""
        self._entries.clear()
        self._unnamed.clear()


_NAME = struct.Struct(f"{at.NAME}s")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9) if seconds > 0 else 0


def redo(numbers: memoryview, page: int) -> None:
    """Do what the journal of a page says, once more. It may have been done in part."""
    journal = numbers[page + at.JOURNAL : page + at.JOURNAL + 12].tolist()
    for place, value in zip(journal[::2], journal[1::2], strict=True):
        numbers[place] = value
    numbers[page + at.SEQUENCE] += 1
