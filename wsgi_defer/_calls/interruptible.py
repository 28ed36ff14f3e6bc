"""Where an alarm may end a call: not while it works with locks, but while it waits.

A handler of a signal may run, and raise, between any two steps of Python code. Just
after a lock was taken, and before the ``try`` that gives it back, that leaves it taken
for ever; a pool of connections loses one in the same way. So a call is left alone while
it is in such code, and in all that such code calls.

A wait for a condition is different: it has given its lock back, and Python has written
it for ``KeyboardInterrupt``, which comes in the same way.
"""

from __future__ import annotations

import threading
from types import CodeType, FrameType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
# With all modules inside of them. In these, a call may be ended while it waits.
WAITING = frozenset(
    [
        "threading",
        "queue",
        "concurrent.futures",
        "multiprocessing.pool",
        f"{_PACKAGE}.background",
        f"{_PACKAGE}.pools",
    ]
)
# In these, not even while it waits, as they hold something else meanwhile.
CLOSED = frozenset(
    [
        "logging",
        "multiprocessing.queues",
        "multiprocessing.synchronize",
        # Pools of connections, but nothing that is also there while a query runs.
        "sqlalchemy.pool",
        "sqlalchemy.util.queue",
        "psycopg_pool",
        "psycopg2.pool",
        "mysql.connector.pooling",
        "playhouse.pool",
        "dbutils.pooled_db",
        "kombu.pools",
        "kombu.resource",
        # It runs at each call, and line, of what it measures, under a lock of its own.
        # Not "coverage" itself, which may be a package of the app's.
        "coverage.collector",
        "coverage.context",
        "coverage.control",
        "coverage.disposition",
        "coverage.inorout",
        "coverage.plugin_support",
        "coverage.pytracer",
        "coverage.sqldata",
        "coverage.sqlitedb",
        "coverage.sysmon",
        "coverage.tracer",
        # This package's own
        f"{_PACKAGE}.observers",
        f"{_PACKAGE}.ledger",
        f"{_PACKAGE}.jobs.engines",
        f"{_PACKAGE}._calls.limit",
        f"{_PACKAGE}._runtime.machine_lock",
        f"{_PACKAGE}.jobs._watch",
    ]
)
# These run code of the app's, and hold nothing meanwhile.
_OPEN = frozenset([f"{_PACKAGE}.jobs.engines.memory"])
# A call begins there, also one inside of another; and a job with a time limit.
_ENTRIES = frozenset([f"{_PACKAGE}._calls.invoke", f"{_PACKAGE}.jobs._time_limit"])

_kinds: dict[str, frozenset[str]] = {}  # of modules, as far as they were asked for


def blocker(frame: FrameType) -> FrameType | None:
    """The outermost frame of a call that must not be interrupted at this frame.

    None if it may be.
    """
    innermost, found, may_wait = frame, None, True
    inside: FrameType | None = frame
    while inside is not None:
        name = str(inside.f_globals.get("__name__"))
        if name in _ENTRIES:
            break
        kind = _kind(name)
        if kind is not _OPEN:
            found = inside
            may_wait = may_wait and kind is WAITING
        inside = inside.f_back
    if found is not None and may_wait and _waits(innermost):
        return None
    return found


def _kind(name: str) -> frozenset[str]:
    kind = _kinds.get(name)
    if kind is None:
        kind, part = _OPEN, name
        while part:
            listed = [each for each in (_OPEN, WAITING, CLOSED) if part in each]
            if listed:
                kind = listed[0]
                break
            part = part.rpartition(".")[0]
        _kinds[name] = kind
    return kind


def wake(number: int, frame: object) -> None:
    """A handler of a signal that only interrupts what the main thread waits for."""


_waits_at: dict[CodeType, frozenset[int]] = {}  # lines of functions


def prepare() -> None:
    """Read where the standard library waits. Before the first alarm, not inside it."""
    if _waits_at:
        return
    thread: Any = threading.Thread
    waits = {
        threading.Condition.wait: "acquire",
        # Up to Python 3.12. If this is interrupted, the thread is taken for ended.
        getattr(thread, "_wait_for_tstate_lock", thread.join): "acquire",
        thread.join: "join",
    }
    for function, method in waits.items():
        code = function.__code__
        _waits_at[code] = _lines_that_call(code, method)


def _lines_that_call(code: CodeType, method: str) -> frozenset[int]:
    """The lines of a function on which it calls a method of that name."""
    import dis  # few processes need it

    lines: list[Any] = [each for each in dis.findlinestarts(code) if each[1]]
    return frozenset(
        max(start for start in lines if start[0] <= each.offset)[1]
        for each in dis.get_instructions(code)
        if each.argval == method
    )


def _waits(frame: FrameType) -> bool:
    """Whether a thread waits here for another one, and holds no lock."""
    if frame.f_lineno not in _waits_at.get(frame.f_code, ()):
        return False
    waiter = frame.f_locals.get("waiter")
    # Of a condition: it has begun to wait, and nobody has woken it.
    return waiter is None or (
        waiter.locked() and waiter in frame.f_locals["self"]._waiters
    )
