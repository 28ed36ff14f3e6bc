"""How quickly workers do jobs: ours, and each engine's own, side by side.

Each row: jobs that do nothing, a second, with one process and with four; jobs that wait
20 ms, a second, with eight at a time in one process; how long a job waits when all is
idle; what idle workers take of a processor; and how long the first job waits for the
start of the worker. huey, which may lose jobs, is a row of its own.

The servers are those of the tests, started for this; what is not installed is left out,
by name. ``--quick`` takes two minutes, and its figures are rough.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import own

from wsgi_defer.jobs import Jobs

HOME = Path(__file__).parent.parent
PATIENCE = 120  # seconds for the jobs of one run
jobs = Jobs(os.environ.get("JOBS_URL"))
for name, function in own.FUNCTIONS.items():
    jobs.handler(name)(function)


class Ours:
    """One of our engines, and its worker."""

    order = signal.SIGTERM

    def __init__(self, url, can_thread=False):
        self.url, self.can_thread = url, can_thread

    def can(self, threads):
        return threads == 1 or self.can_thread

    def commands(self, processes, threads):
        command = [sys.executable, "-m", "wsgi_defer.jobs", "worker", "workers:jobs"]
        return [[*command, "--processes", str(processes), "--threads", str(threads)]]

    def open(self):
        client = Jobs(self.url)
        for name, function in own.FUNCTIONS.items():
            client.handler(name)(function)
        return client.enqueue


class Run:
    """The workers of one engine, with a file of what they have done."""

    def __init__(self, engine, folder, processes=1, threads=1):
        self.engine = engine
        self.notes = Path(folder, f"notes-{processes}-{threads}")
        self.output = Path(folder, "output")
        self.commands = engine.commands(processes, threads)
        self.workers = []

    def __enter__(self):
        kind = type(self.engine)
        env = {**os.environ, "JOBS_URL": self.engine.url, "NOTES": str(self.notes),
               "PYTHONPATH": os.pathsep.join([
                   str(HOME), str(HOME / "benchmarks"),
                   os.environ.get("PYTHONPATH", ""),
               ])}  # fmt: skip
        if kind is not Ours:
            env["OWN"] = kind.__name__
        self.started = time.time()
        with self.output.open("a") as output:
            for command in self.commands:
                self.workers.append(
                    subprocess.Popen(command, env=env, cwd=self.notes.parent,
                                     stdout=output, stderr=output,
                                     start_new_session=True)
                )  # fmt: skip
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.send_signal(self.engine.order)
        for worker in self.workers:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()

    def done(self):
        """When each job was done."""
        if not self.notes.exists():
            return []
        lines = self.notes.read_text().splitlines()
        return [float(line.split()[-1]) for line in lines if len(line.split()) == 2]

    def wait(self, count):
        deadline = time.monotonic() + PATIENCE
        while len(self.done()) < count:
            if time.monotonic() > deadline:
                end = self.output.read_text(errors="replace")[-500:]
                raise TimeoutError(f"{len(self.done())} of {count} jobs done. {end}")
            time.sleep(0.002)

    def idle(self, seconds):
        """What all its processes use of a processor."""
        time.sleep(1)
        before = sum(used(worker.pid) for worker in self.workers)
        time.sleep(seconds)
        return (sum(used(worker.pid) for worker in self.workers) - before) / seconds


def family(pid):
    """That process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += family(int(child))
    return found


def used(pid):
    """The processor time that they have used, in seconds."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rate(done):
    """Jobs a second, without the first third, in which processes may still start."""
    some = sorted(done)[len(done) // 3 :]
    return (len(some) - 1) / max(some[-1] - some[0], 1e-3)


def wait_of_one(run, enqueue):
    """How long it takes from enqueue() to the job's first line, in an idle queue."""
    before = len(run.done())
    start = time.time()
    enqueue("nothing", "one")
    run.wait(before + 1)
    time.sleep(0.05)
    return run.done()[-1] - start


def measure(engine, folder, scale):
    """Its row of the table."""
    enqueue = engine.open()
    for number in range(scale.jobs):
        enqueue("nothing", number)
    with Run(engine, folder) as run:
        run.wait(1)
        first = min(run.done()) - run.started
        run.wait(scale.jobs)
        one = rate(run.done())
        time.sleep(1)
        waits = [wait_of_one(run, enqueue) for _ in range(scale.waits)]
        idle = f"{run.idle(scale.idle):.1%}"
    # Inclusive, or p99 of a few would be longer than the longest.
    quantiles = statistics.quantiles(waits, n=100, method="inclusive")
    p50, p99 = quantiles[49] * 1e3, quantiles[98] * 1e3
    count = max(scale.jobs, int(scale.seconds * one))
    for number in range(count):
        enqueue("nothing", number)
    with Run(engine, folder, processes=4) as run:
        run.wait(count)
        four = rate(run.done())
        idle += f" {run.idle(scale.idle):.1%}"
    eight = "-"
    if engine.can(8):
        for number in range(scale.waiting):
            enqueue("waits", number)
        with Run(engine, folder, threads=8) as run:
            run.wait(scale.waiting)
            eight = f"{rate(run.done()):.0f}"
    return (f"{one:9.0f} {four:9.0f} {eight:>9}   {p50:5.0f} /{p99:5.0f} "
            f"{idle:>13} {first:7.1f}")  # fmt: skip


def rows(redis, postgres, rabbit):
    """Each row: its title, what makes its engine, its server, the engine's package."""
    threads = partial(Ours, can_thread=True)
    return [
        ("DBOS on SQLite", threads, None, "dbos"),
        ("DBOS itself, 8 at a time", own.OwnDbos, None, "dbos"),
        ("huey on SQLite (may lose jobs)", own.OwnHuey, None, "huey"),
        ("DBOS on PostgreSQL", threads, postgres, "dbos"),
        ("RQ on Redis", Ours, redis, "rq"),
        ("RQ: rq worker", own.OwnRq, redis, "rq"),
        ("Celery on RabbitMQ", Ours, rabbit, "celery"),
        ("the same, acks_late as ours", own.OwnSafeCelery, rabbit, "celery"),
        ("Celery: celery worker", own.OwnCelery, rabbit, "celery"),
        ("Procrastinate", threads, postgres, "procrastinate"),
        ("procrastinate worker", own.OwnProcrastinate, postgres, "procrastinate"),
    ]


def url_of(server, number, package):
    """A new place on that server; FOLDER stands for a directory."""
    if server is None:
        return "sqlite:///FOLDER/jobs.db"
    if hasattr(server, "database"):
        url = server.database(f"row{number}")
        return f"dbos+{url}" if package == "dbos" else url
    return server.url


def main():
    # Not in the workers, which import this file.
    import pytest

    from tests.engines.services import Postgres, Rabbit, Redis

    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true")
    options.add_argument("--only", default="", help="rows whose title has that in it")
    options = options.parse_args()
    quick = argparse.Namespace(jobs=60, seconds=1, waits=8, idle=1, waiting=200)
    full = argparse.Namespace(jobs=400, seconds=4, waits=30, idle=10, waiting=1200)
    print("Jobs a second, with 1 and 4 processes, and with 8 threads if each waits for "
          "20 ms;\nfrom enqueue() to the job when all is idle, p50 / p99; what idle "
          "workers use of a\nprocessor, 1 and 4; from the worker's start to its first "
          "job\n")  # fmt: skip
    print(f"{'':36}{'1 proc':>9} {'4 procs':>9} {'8 threads':>9} {'wait, ms':>14} "
          f"{'idle':>13} {'first, s':>8}", flush=True)  # fmt: skip
    running = {}
    try:
        found = rows(Redis, Postgres, Rabbit)
        for number, (title, make, server, package) in enumerate(found):
            if options.only not in title:
                continue
            if importlib.util.find_spec(package) is None:
                print(f"{title}: {package} is not installed")
                continue
            try:
                if server is not None and server not in running:
                    server.skip_unless_installed()
                    running[server] = server()
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    url = url_of(running.get(server), number, package)
                    engine = make(url=url.replace("FOLDER", folder))
                    row = measure(engine, folder, quick if options.quick else full)
                print(f"{title:36}{row}", flush=True)
            except (pytest.skip.Exception, TimeoutError) as reason:
                print(f"{title}: {reason}", flush=True)
    finally:
        for server in running.values():
            server.close()


if __name__ == "__main__":
    main()
