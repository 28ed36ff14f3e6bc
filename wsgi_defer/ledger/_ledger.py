"""The flight recorder: which calls wait and run, in memory that survives the process.

The master makes it before it forks, with a page for each worker. A worker writes what
becomes of its calls on its page. When it is dead, however it died, the master reads
what is left there. A page has room for ``ENTRIES`` calls at a time; calls above that
are counted, without their names.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from typing import NamedTuple

from .._calls.call import Call
from .._calls.options import MAX_CALLS, MAX_WAITING
from .._calls.scope import Scope
from ..observers._observer import Observer

PAGES = 256  # workers at a time
# Calls at a time, of one worker: those that wait for the background thread, the scope
# that it was given last, the one that it runs, and a request that defers meanwhile.
ENTRIES = MAX_WAITING + 3 * MAX_CALLS
NAME = 168  # bytes; what is longer is cut
REQUEST = 64
# State, when it was registered, when it started, name, number of the request.
_ENTRY = struct.Struct(f"Qdd{NAME}s{REQUEST}s")
_NAME = struct.Struct(f"{NAME}s")
_HEAD = _ENTRY.size - NAME - REQUEST
ENTRY = _ENTRY.size  # 256 bytes
# The first entry holds the number of calls without an entry; the place of the last
# entry that was ever used, as to read memory that was never written would allocate it;
# and the number of calls that the process itself has told to be lost.
_PAGE = (ENTRIES + 1) * ENTRY

_FREE, _WAITING, _RUNNING = 0, 1, 2


class Left(NamedTuple):
    """A call that was left when its process ended.

    ``since`` is the number of seconds since it started, or since it was registered if
    it had not started.
    """

    name: str
    request_id: str
    running: bool
    since: float


class Ledger:
    """The shared memory, and which pages are free. For the process that forks.

    262 MB of address space, which becomes memory only where something is written. A
    page that was closed is used again, the first ones first.
    """

    def __init__(self, pages: int = PAGES) -> None:
        self._memory = mmap.mmap(-1, pages * _PAGE)
        self._free = list(range(pages))[::-1]

    def take_page(self) -> int | None:
        """Reserve a page for a process that is to be forked; None if all are taken."""
        return self._free.pop() if self._free else None

    def recorder(self, page: int) -> Recorder:
        """What writes that page, for the forked process."""
        return Recorder(self._memory, page)

    def take_lost(self, page: int) -> int:
        """How many calls a process that has ended has told to be lost; 0 from then on.

        These are not among those that ``close_page()`` returns.
        """
        number = page * _PAGE // 8 + 2
        numbers = memoryview(self._memory).cast("Q")
        lost, numbers[number] = numbers[number], 0
        return lost

    def close_page(self, page: int) -> tuple[list[Left], int]:
        """Read what a process that has ended has left, and free its page.

        Returns the calls, the running ones first, and the number of those that had no
        entry.
        """
        left = []
        numbers = memoryview(self._memory).cast("Q")
        begin = page * _PAGE
        unnamed, last = numbers[begin // 8], numbers[begin // 8 + 1]
        now = time.monotonic()  # the same clock for all processes of a machine
        for entry in range(begin + ENTRY, last + 1, ENTRY):
            call = _read(self._memory, entry, now)
            if call is None:
                continue
            left.append(call)
            numbers[entry // 8] = _FREE
        if unnamed:
            numbers[begin // 8] = 0
        self._free.append(page)
        self._free.sort(reverse=True)
        left.sort(key=_by_urgency)
        return left, unnamed


class Recorder(Observer):
    """Writes one page, in the process that has it. Safe from any thread."""

    def __init__(self, memory: mmap.mmap, page: int) -> None:
        self._memory = memory
        self._numbers = memoryview(memory).cast("Q")
        self._times = memoryview(memory).cast("d")
        self._count = page * _PAGE // 8
        self._last = self._numbers[self._count + 1]
        first = page * _PAGE + ENTRY
        # What is done with these lists, dicts and sets is atomic.
        self._free = list(range(first, first + ENTRIES * ENTRY, ENTRY))[::-1]
        self._entries: dict[int, int] = {}
        self._unnamed: set[int] = set()
        self._lock = threading.RLock()  # of the number of lost calls

    def queued(self, call: Call, scope: Scope) -> None:
        self._write(call, scope, _WAITING)

    def started(self, call: Call, scope: Scope) -> None:
        entry = self._entries.get(id(call))
        if entry is None:  # there was no room when it was registered
            self._drop_unnamed(call)
            self._write(call, scope, _RUNNING)
        else:
            self._times[entry // 8 + 2] = call.started_at or 0
            self._numbers[entry // 8] = _RUNNING

    def finished(self, call: Call, scope: Scope) -> None:
        entry = self._entries.pop(id(call), None)
        if entry is None:
            self._drop_unnamed(call)
        else:
            self._numbers[entry // 8] = _FREE
            self._free.append(entry)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self.finished(call, scope)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self.finished(call, scope)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        # In this order: the master may count it twice, but never forget it.
        with self._lock:
            self._numbers[self._count + 2] += 1
        self.finished(call, scope)

    def _write(self, call: Call, scope: Scope, state: int) -> None:
        try:
            entry = self._free.pop()
        except IndexError:
            self._unnamed.add(id(call))
            self._numbers[self._count] = len(self._unnamed)
            return
        if entry > self._last:
            self._last = self._numbers[self._count + 1] = entry
        self._entries[id(call)] = entry
        _ENTRY.pack_into(
            self._memory, entry, _FREE, call.queued_at, call.started_at or 0,
            _bytes(str(call.label)), _bytes(scope.request_id),
        )  # fmt: skip
        self._numbers[entry // 8] = state  # last, so that no half entry is ever read
        call.changed = self._change

    def _change(self, call: Call) -> None:
        entry = self._entries.get(id(call))
        if entry is None:
            return
        if call.pending or call.started_at is not None:
            _NAME.pack_into(self._memory, entry + _HEAD, _bytes(str(call.label)))
        else:  # cancelled, and so not lost
            self._numbers[entry // 8] = _FREE

    def left(self) -> tuple[list[Left], int]:
        """What has not ended so far, as ``Ledger.close_page()`` returns it."""
        now = time.monotonic()
        # A copy, as other threads add to it.
        found = [_read(self._memory, entry, now) for entry in [*self._entries.values()]]
        left = [call for call in found if call is not None]
        return sorted(left, key=_by_urgency), len(self._unnamed)

    def forget(self) -> None:
        """In a child process: the page is not its own."""
        self._entries.clear()

    def _drop_unnamed(self, call: Call) -> None:
        self._unnamed.discard(id(call))
        self._numbers[self._count] = len(self._unnamed)


def _read(memory: mmap.mmap, entry: int, now: float) -> Left | None:
    state, queued, began, name, request = _ENTRY.unpack_from(memory, entry)
    if state == _FREE:
        return None
    running = state == _RUNNING
    since = now - (began if running else queued)
    return Left(_text(name), _text(request), running, since)


def _by_urgency(call: Left) -> tuple[bool, float]:
    return not call.running, -call.since


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
