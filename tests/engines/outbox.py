"""Is a job lost that a client was promised, or stored for a request that failed?

``python -m tests.engines.outbox URL`` sends requests to gunicorn, and kills its workers
meanwhile. One request in five ends in a 500 after its ``enqueue()``. Then it prints
what the engine knows. It does so three times: with the write held until the response
starts, with ``hold=False``, and with ``defer(jobs.enqueue, ...)``. Only the first is
right.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.jobs import Jobs

from ..helpers.waiting import OF_PROCESSES, until

HOME = Path(__file__).parents[2]
CLIENTS = 8
WORKERS = 4
FAILS = 5  # one request of this many
KILL_EVERY = 0.25  # seconds
MODES = {
    "held": "enqueue() in the view, held until the response starts",
    "now": "enqueue(hold=False) in the view",
    "deferred": "defer(enqueue), after the response",
}
BETWEEN_KILLS = 8  # requests at least, even on a slow machine
PATIENCE = OF_PROCESSES


def make_app(url, mode):
    """A wrapped app whose view enqueues one job, named by the request."""
    jobs = Jobs(url)
    jobs.handler("outbox.note")(print)

    def view(environ, start_response):
        job_id = environ["PATH_INFO"].strip("/")
        if job_id == "ready":
            jobs.status("ready")  # opens the engine, so that no request waits for that
        elif mode == "deferred":
            defer(jobs.enqueue, "outbox.note", job_id, job_id=job_id)
        else:
            jobs.enqueue("outbox.note", job_id, job_id=job_id, hold=mode == "held")
        if job_id.endswith("-fails"):
            raise RuntimeError("after its enqueue()")
        start_response("202 Accepted", [("Content-Length", "0")])
        return [b""]

    return DeferMiddleware(view)


@dataclass
class Count:
    """What clients saw, and what the engine knows of their jobs."""

    kills: int = 0
    seen: dict[str, int | None] = field(default_factory=dict)  # status by job id
    acknowledged: int = 0
    missing: list[str] = field(default_factory=list)  # 202, and no job
    unwanted: list[str] = field(default_factory=list)  # 500, and a job
    cut: int = 0  # neither
    cut_with_job: int = 0


def run(url, mode, requests, seed=7, every=KILL_EVERY):
    """Send that many, kill a worker ``every`` so many seconds, and ask the engine."""
    count, chance = Count(), random.Random(seed)
    prefix = f"{mode}-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    with TemporaryDirectory() as folder, gunicorn(url, mode, Path(folder)) as master:
        port = listening(Path(folder) / "log")
        send(port, "ready")
        ids = iter([
            f"{prefix}-{n}" + ("-fails" if n % FAILS == 0 else "")
            for n in range(requests)
        ])  # fmt: skip
        lock = threading.Lock()

        def client():
            while True:
                with lock:
                    job_id = next(ids, None)
                if job_id is None:
                    return
                count.seen[job_id] = send(port, job_id)

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in clients:
            thread.start()
        while any(thread.is_alive() for thread in clients):
            clients[0].join(every)
            time.sleep(0 if clients[0].is_alive() else every)
            if len(count.seen) < (count.kills + 1) * BETWEEN_KILLS:
                continue
            if victims := children(master.pid):
                kill(chance.choice(victims))
                count.kills += 1
    return ask(url, count)


def ask(url, count):
    """Compare what clients were told with what the engine has."""
    jobs = Jobs(url)
    for job_id, status in count.seen.items():
        known = jobs.status(job_id) is not None
        if status == 202:
            count.acknowledged += 1
            if not known:
                count.missing.append(job_id)
        elif status == 500:
            if known:
                count.unwanted.append(job_id)
        else:
            count.cut += 1
            count.cut_with_job += known
    jobs.engine.close()
    return count


class gunicorn:  # noqa: N801 - a context manager
    """Four sync workers, on a free port of the loopback."""

    def __init__(self, url, mode, folder):
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0",
             "--workers", str(WORKERS), "--no-control-socket", "--backlog", "512",
             f"tests.engines.outbox:make_app({url!r}, {mode!r})"],
            cwd=HOME, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def __enter__(self):
        return self._process

    def __exit__(self, *exc_info):
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._log.close()


def listening(log):
    """The port, once gunicorn has one."""
    found = until(
        lambda: re.search(rb"Listening at: \S+:(\d+)\s", log.read_bytes()),
        log.read_text, PATIENCE,
    )  # fmt: skip
    return int(found[1])


def send(port, job_id):
    """One request on a connection of its own; its status, or None if it was cut."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", f"/{job_id}")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def children(pid):
    """The ids of its workers."""
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def kill(pid):
    """Kill a worker that may have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main():
    """Print the counts of all three."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines.outbox")
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--mode", choices=MODES, action="append")
    options = parser.parse_args()
    for mode in options.mode or MODES:
        count = run(options.url, mode, options.requests)
        print(f"{MODES[mode]}: {count.kills} kills, {count.acknowledged} got 202, of "
              f"which {len(count.missing)} have no job; {len(count.unwanted)} jobs for "
              f"a 500; {count.cut} cut, {count.cut_with_job} of these with a job",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
