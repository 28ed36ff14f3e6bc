"""For development: a worker command that starts again when a file has changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

INTERVAL = 0.5  # seconds between two looks at the files
NOT_OURS = {"__pycache__", "node_modules"}


def run(command: Sequence[str]) -> int:
    """Run that command, and again each time that a Python file has changed.

    These are the files in the current directory and below, but for hidden directories
    and virtual environments. A command that ends with an error, as a file cannot be
    imported, is started again at the next change. SIGTERM and SIGINT end it; the
    command finishes what runs.
    """
    orders: list[int] = []  # signals that are not passed on yet

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: orders.append(number))
    while True:
        before = files(Path.cwd())
        # In a session of its own, so that Ctrl-C reaches it only once, from here.
        process = subprocess.Popen(command, start_new_session=True)  # noqa: S603
        while not orders and files(Path.cwd()) == before:
            if ended(process) and process.returncode == 0:
                return 0
        if not orders and process.poll() is None:
            print("wsgi_defer.jobs: a file has changed; the worker starts again",
                  file=sys.stderr, flush=True)  # fmt: skip
            process.send_signal(signal.SIGTERM)
        stopped = False
        while orders or process.poll() is None:
            stopped = stopped or bool(orders)
            while orders:
                orders.pop()
                process.send_signal(signal.SIGTERM)
            ended(process)
        if stopped:
            return process.returncode


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, asked after a moment."""
    time.sleep(INTERVAL)
    return process.poll() is not None


def files(top: Path) -> dict[str, int]:
    """The Python files there and below, and when they were changed."""
    found = {}
    for folder, folders, names in os.walk(top):
        folders[:] = [
            name
            for name in folders
            if not (name.startswith(".") or name in NOT_OURS)
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue  # it was removed meanwhile
    return found
