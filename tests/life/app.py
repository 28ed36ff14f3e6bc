"""The app that the gunicorns of these tests serve. It notes what becomes of its calls.

A note is one ``os.write()`` to a file that is opened to append: it is there whole, or
not at all, whatever kills the process a moment later.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import resource
import signal
import time
from pathlib import Path
from urllib.parse import parse_qsl

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.ledger import openmetrics, snapshot

from . import BODY, CALLS

ROOT = Path(os.environ["LIFE_ROOT"])
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
NOTES = os.open(ROOT / "notes", APPEND, 0o666)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some of these calls crash


def note(event, name):
    """Write down that this happened to that call."""
    line = f"{event} {name} {os.getpid()} {time.monotonic()}\n"
    os.write(NOTES, line.encode())


note("loaded", "app")


def sleep(seconds):
    """Wait in Python code, and let other greenlets run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


def block(seconds):
    """Wait in Python code, and let threads run but no greenlet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        signal.sigtimedwait((), 0.01)  # gevent does not replace this one


def hold(seconds):
    """Wait in C code that holds the GIL: no handler of a signal runs, and no thread.

    It locks a mutex twice, which unlike sleep(3) is not ended by a signal.
    """
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(128)  # zeros are an unlocked mutex
    until = time.time() + seconds
    timespec = (ctypes.c_long * 2)(int(until), int(math.modf(until)[0] * 1e9))
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_timedlock(mutex, timespec)


def crash(seconds):
    """Read from address zero."""
    ctypes.string_at(0)


def endless(seconds):
    """Never end."""
    while True:
        pass


def work(name, how, seconds):
    """A call: it notes that it begins, and that it has finished."""
    note("begun", name)
    how(seconds)
    note("finished", name)


def calls(query):
    """Defer three calls. ``second`` says what the second one does, ``long`` for how
    many seconds; the others sleep for ``seconds``. ``prefix`` is one of their names.
    """
    seconds = float(query.get("seconds", 1))
    for name in CALLS:
        how, length = sleep, seconds
        if name == CALLS[1]:
            how = globals()[query.get("second", "sleep")]
            length = float(query.get("long", seconds))
        full = query.get("prefix", "") + name
        defer(work, full, how, length).named(full)


def limited(query):
    """Defer a call that never ends, with a limit of one second, and another one."""
    defer(work, CALLS[0], endless, 0).named(CALLS[0]).time_limit(1)
    defer(work, CALLS[1], sleep, 0).named(CALLS[1])


@functools.cache
def own_file(pid):
    """A file for the notes of this process alone."""
    return os.open(ROOT / f"soak-{pid}", APPEND, 0o666)


def quick(query):
    """Defer one call or two, for the soak test, and note that they are deferred.

    The note comes last: whoever reads it knows that the call was really deferred.
    """
    file = own_file(os.getpid())
    for name in query["names"].split(","):

        def finish(name=name):
            os.write(file, f"finished {name}\n".encode())

        finish.__qualname__ = name  # the process may end before the call is named
        defer(finish).named(name)
        os.write(file, f"deferred {name}\n".encode())


VIEWS = {"/calls": calls, "/limited": limited, "/quick": quick}


def figures():
    """What the ledger has of all workers, as JSON."""
    taken = snapshot()._asdict()
    for key in ("workers", "calls", "failures"):
        taken[key] = [each._asdict() for each in taken[key]]
    return json.dumps(taken).encode() + BODY


FIGURES = {"/figures": figures, "/metrics": lambda: openmetrics(snapshot()).encode()}


def view(environ, start_response):
    """Defer what the path says. ``status`` is that of the response."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    if defers := VIEWS.get(environ["PATH_INFO"]):
        defers(query)
    status = query.get("status", "200 OK")
    body = FIGURES[environ["PATH_INFO"]]() if environ["PATH_INFO"] in FIGURES else BODY
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


app = DeferMiddleware(view)
busy = DeferMiddleware(view, when_busy="thread")
elsewhere = DeferMiddleware(view, inline=False)  # on the background thread
