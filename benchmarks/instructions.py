"""How many instructions a served request takes, which no busy machine changes.

gunicorn's own sync worker serves requests on sockets, in one process under valgrind, a
few and then some more. The difference is that of the requests. System calls do not
count. Each figure is the median for several seeds of Python's hashes, as these move
what the interpreter finds in its caches: a percent of a row is not a difference.

Needs valgrind (Debian has it). ``--seeds`` says how many, 3 by default. None is begun
after ``--minutes``, so that it ends soon on a slow or busy machine, too.
"""

import argparse
import gc
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from apps import wsgi
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers import sync

from wsgi_defer.gunicorn import SyncWorker

# Python 3.10 caches where it finds an attribute when a function has run 1,024 times.
FEW, MORE = 1100, 1300
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
ROWS = {
    "bare": (sync.SyncWorker, wsgi.bare),
    "nothing deferred": (sync.SyncWorker, wsgi.nothing),
    "one call deferred": (sync.SyncWorker, wsgi.one),
    "SyncWorker, nothing deferred": (SyncWorker, wsgi.nothing),
    "SyncWorker, one call deferred": (SyncWorker, wsgi.one),
}


class Listener:
    """What a worker asks of the socket that a client has connected to."""

    def getsockname(self):
        return "127.0.0.1", 8000


def serve(row, times):
    kind, app = ROWS[row]
    config = Config()
    worker = kind(1, os.getpid(), [], None, 30, config, Logger(config))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    worker.wsgi, worker.alive, worker.max_requests = app, True, sys.maxsize
    gc.disable()  # its turns come with the objects of all that was imported
    for _ in range(times):
        server, client = socket.socketpair()
        client.send(REQUEST)
        client.shutdown(socket.SHUT_WR)
        worker.handle(Listener(), server, ("127.0.0.1", 1234))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        client.close()


def count(run):
    row, seed, times = run
    told = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no",
         "--cachegrind-out-file=/dev/null", sys.executable, __file__,
         "--serve", row, str(times)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)}, cwd=Path(__file__).parent,
        capture_output=True, text=True,
    ).stderr  # fmt: skip
    found = re.search(r"I +refs: +([\d,]+)", told)
    if found is None:
        raise SystemExit(told)
    return int(found[1].replace(",", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    if shutil.which("valgrind") is None:
        print("instructions.py needs valgrind: apt-get install valgrind")
        return
    deadline = time.monotonic() + options.minutes * 60
    counted, seeds = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as several:
        while len(seeds) < options.seeds and (not seeds or time.monotonic() < deadline):
            runs = list(product(ROWS, [len(seeds)], (FEW, MORE)))
            counted |= zip(runs, several.map(count, runs), strict=True)
            seeds.append(len(seeds))
    version = sys.version.split()[0]
    print(f"Instructions for each request, on Python {version}, {len(seeds)} seeds:")
    bare = 0
    for row in ROWS:
        taken = statistics.median(
            (counted[row, seed, MORE] - counted[row, seed, FEW]) / (MORE - FEW)
            for seed in seeds
        )
        bare = bare or taken
        print(f"  {row:32}{taken:10,.0f}{taken - bare:+10,.0f}")


if __name__ == "__main__":
    main()
