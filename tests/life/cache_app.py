"""An app that answers with a cached value, for tests that kill who renews it."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from urllib.parse import parse_qsl

from cachelib import FileSystemCache

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.cache import flexible

from .app import ROOT, note

FRESH, STALE = 0.01, 3600
HANGS = 3600  # seconds; the worker is killed before that

tempfile.tempdir = str(ROOT)
CACHE = FileSystemCache(str(ROOT / "cache"), threshold=0)


def work(name):
    """Note that it begins and has finished, and in which process another one runs.

    It hangs if a file says so. A lock of our own tells of others: the kernel frees it.
    """
    with open(ROOT / f"running-{name}", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            note("overlap", f"{name}:{file.read().rpartition(' ')[2]}")
        else:
            file.write(f" {os.getpid()}")
            file.flush()
        hangs = (ROOT / f"hangs-{name}").exists()
        note("begun", name)
        time.sleep(HANGS if hangs else 0.05)
        note("finished", name)
    return f"by {os.getpid()} at {time.monotonic()}"


def when_told(name):
    """As ``work()``, which ends when a file is there."""
    note("begun", name)
    while not (ROOT / f"go-{name}").exists():
        time.sleep(0.01)
    return f"by {os.getpid()} at {time.monotonic()}"


def view(environ, start_response):
    """The value of a key; or a call that runs once."""
    name = dict(parse_qsl(environ["QUERY_STRING"])).get("name", "")
    if environ["PATH_INFO"] == "/value":
        body = flexible(CACHE, name, FRESH, STALE, work, name)
    elif environ["PATH_INFO"] == "/cold":
        note("asked", f"{name}-{os.getpid()}")
        body = flexible(CACHE, name, STALE - 1, STALE, when_told, name, wait=HANGS)
    else:
        defer(work, name).once_for(name, HANGS)
        body = "deferred"
    body = body.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


app = DeferMiddleware(view)
