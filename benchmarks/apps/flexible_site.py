"""The app of ``benchmarks/flexible.py``: it answers with the age of a cached value."""

import fcntl
import os
import tempfile
import time

from cachelib import FileSystemCache

from wsgi_defer import DeferMiddleware
from wsgi_defer.cache import flexible

ROOT = os.environ["FLEXIBLE_ROOT"]
REFRESH = 0.3  # seconds that it takes to compute the value
FRESH = {"/stale": 1.0, "/fresh": 3000.0}
STALE = 3600.0

tempfile.tempdir = ROOT
CACHE = FileSystemCache(f"{ROOT}/cache", threshold=0)
NOTES = os.open(f"{ROOT}/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def load(path):
    """Note in which process another one runs, by a lock that ends with the process."""
    with open(f"{ROOT}/running-{path[1:]}", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(f" {os.getpid()}")
            file.flush()
            note = "begun"
        except BlockingIOError:
            file.seek(0)
            other = file.read().rpartition(" ")[2]
            note = f"overlap with {other} at {time.monotonic()}"
        os.write(NOTES, f"{note}\n".encode())
        time.sleep(REFRESH)
    return time.time()


def view(environ, start_response):
    path = environ["PATH_INFO"]
    value = flexible(CACHE, path, FRESH[path], STALE, load, path)
    body = b"%.6f" % (time.time() - value)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


app = DeferMiddleware(view)
