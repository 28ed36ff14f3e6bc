"""The flight recorder: which calls wait and run, in memory that survives the process.

The master makes it before it forks, one slot for each worker. A worker writes what
becomes of its calls into its slot, and when it is dead, however it died, the master
reads what was left. The size is fixed: a slot has room for so many calls at a time, and
those above that are counted, without their names.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import NamedTuple

from ._call import Call
from ._observer import Observer
from ._scope import Scope

SLOTS = 256  # workers at a time
ENTRIES = 1000  # calls at a time, of one worker
NAME = 168  # bytes; what is longer is cut
REQUEST = 64
# State, when it was registered, when it began, name, number of the request.
_ENTRY = struct.Struct(f"Qdd{NAME}s{REQUEST}s")
_NAME = struct.Struct(f"{NAME}s")
_HEAD = _ENTRY.size - NAME - REQUEST
ENTRY = _ENTRY.size  # 256 bytes
# The first is for the number of calls without an entry, and for the place of the last
# entry that was ever used: to read memory that was never written would allocate it.
_SLOT = (ENTRIES + 1) * ENTRY

_FREE, _WAITING, _RUNNING = 0, 1, 2


class Left(NamedTuple):
    """A call that was left when its process ended.

    ``since`` is the number of seconds since it began, or was registered if it had not
    begun.
    """

    name: str
    request_id: str
    running: bool
    since: float


class Ledger:
    """The memory, and who has which part of it. For the process that forks.

    64 MB of address space; a page of it becomes memory when it is first written. A
    slot that was left is used again, the first ones first.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self._memory = mmap.mmap(-1, slots * _SLOT)
        self._free = list(range(slots))[::-1]

    def take_slot(self) -> int | None:
        """Reserve a slot for a process that is to be forked; None if all are taken."""
        return self._free.pop() if self._free else None

    def recorder(self, slot: int) -> Recorder:
        """What the forked process writes its slot with."""
        return Recorder(self._memory, slot)

    def close_slot(self, slot: int) -> tuple[list[Left], int]:
        """Read what is left of a process that has ended, and free its slot.

        Returns the calls, the running ones first, and the number of those that had no
        entry.
        """
        left = []
        numbers = memoryview(self._memory).cast("Q")
        begin = slot * _SLOT
        unnamed, last = numbers[begin // 8], numbers[begin // 8 + 1]
        now = time.monotonic()  # one clock for all processes of a machine
        for entry in range(begin + ENTRY, last + 1, ENTRY):
            state, queued, began, name, request = _ENTRY.unpack_from(
                self._memory, entry
            )
            if state == _FREE:
                continue
            running = state == _RUNNING
            since = now - (began if running else queued)
            left.append(Left(_text(name), _text(request), running, since))
            numbers[entry // 8] = _FREE
        if unnamed:
            numbers[begin // 8] = 0
        self._free.append(slot)
        self._free.sort(reverse=True)
        left.sort(key=lambda call: (not call.running, -call.since))
        return left, unnamed


class Recorder(Observer):
    """Writes one slot, in the process that has it. Safe from any thread."""

    def __init__(self, memory: mmap.mmap, slot: int) -> None:
        self._memory = memory
        self._numbers = memoryview(memory).cast("Q")
        self._times = memoryview(memory).cast("d")
        self._count = slot * _SLOT // 8
        self._last = self._numbers[self._count + 1]
        first = slot * _SLOT + ENTRY
        # What is done with these lists, dicts and sets is atomic.
        self._free = list(range(first, first + ENTRIES * ENTRY, ENTRY))[::-1]
        self._entries: dict[int, int] = {}
        self._unnamed: set[int] = set()

    def queued(self, call: Call, scope: Scope) -> None:
        self._write(call, scope, _WAITING)

    def started(self, call: Call, scope: Scope) -> None:
        entry = self._entries.get(id(call))
        if entry is None:  # there was no room when it was registered
            self._drop_unnamed(call)
            self._write(call, scope, _RUNNING)
        else:
            self._times[entry // 8 + 2] = call._started_at or 0
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
            self._memory, entry, _FREE, call._queued_at, call._started_at or 0,
            _bytes(str(call.label)), _bytes(scope.request_id),
        )  # fmt: skip
        self._numbers[entry // 8] = state  # last, so that no half of it is ever read
        call._changed = self._change

    def _change(self, call: Call) -> None:
        entry = self._entries.get(id(call))
        if entry is None:
            return
        if call.pending or call._started_at is not None:
            _NAME.pack_into(self._memory, entry + _HEAD, _bytes(str(call.label)))
        else:  # cancelled, and so not lost
            self._numbers[entry // 8] = _FREE

    def forget(self) -> None:
        """In a child process: the slot is not its own."""
        self._entries.clear()

    def _drop_unnamed(self, call: Call) -> None:
        self._unnamed.discard(id(call))
        self._numbers[self._count] = len(self._unnamed)


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
