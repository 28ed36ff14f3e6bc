"""What a served request costs, beside bare servers and beside what others do.

Each set-up is a real server with two workers on a port of its own. wrk asks them in
turn, a second each, so that a machine that changes its speed changes it for all. The
processor's time is that of the workers alone, and the steadier figure: compare it with
that of the bare server in the same group.

Needs Linux and wrk (Debian has it). ``--quick`` takes two minutes. The last lines, and
the chart of docs/cost.md, are what each adds to a request.
"""

import argparse
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import chart

HERE = Path(__file__).parent  # without a gunicorn.conf.py
WORKERS = 2
OURS = "wsgi_defer.gunicorn"
HOOKS = ["-c", f"python:{OURS}"]

# Group: how it is served, then each row: its title, app and path. The first is bare.
PLAIN = [
    ("nothing deferred", "wsgi:nothing", "/"),
    ("one call deferred", "wsgi:one", "/"),
]


OWN = {title for title, *_ in PLAIN}


def gunicorn(*options):
    return [sys.executable, "-m", "gunicorn", "--no-control-socket", *options]


def groups():
    sync, threads = ["-k", "sync"], ["-k", "gthread", "--threads", "4"]
    bare = ("bare", "wsgi:bare", "/")
    return {
        "sync": [
            (gunicorn(*sync), *bare),
            (gunicorn(*sync), "a middleware that does nothing", "wsgi:identity", "/"),
            *[(gunicorn(*sync), *row) for row in PLAIN],
            (gunicorn(*sync), "Werkzeug's ClosingIterator", "wsgi:closing", "/"),
            (gunicorn(*sync), "a ThreadPoolExecutor", "wsgi:submitting", "/"),
        ],
        "SyncWorker, with hooks": [
            (gunicorn(*sync), *bare),
            *[(gunicorn(*HOOKS, "-k", f"{OURS}.SyncWorker"), *row) for row in PLAIN],
        ],
        "gthread": [
            (gunicorn(*threads), *bare),
            *[(gunicorn(*threads), *row) for row in PLAIN],
            (gunicorn(*threads), "a ThreadPoolExecutor", "wsgi:submitting", "/"),
        ],
        "ThreadWorker, with hooks": [
            (gunicorn(*threads), *bare),
            *[
                (gunicorn(*HOOKS, "-k", f"{OURS}.ThreadWorker", "--threads", "4"), *row)
                for row in PLAIN
            ],
        ],
        "gevent": [
            (gunicorn("-k", "gevent"), *bare),
            *[(gunicorn("-k", "gevent"), *row) for row in PLAIN],
        ],
        "Flask on sync": [
            (gunicorn(*sync), "bare", "flask_site:bare", "/"),
            (gunicorn(*sync), "nothing deferred", "flask_site:nothing", "/"),
            (gunicorn(*sync), "one call deferred", "flask_site:one", "/"),
            (gunicorn(*sync), "call_on_close", "flask_site:call_on_close", "/"),
            (gunicorn(*sync), "Flask-Executor", "flask_site:submitting", "/"),
        ],
        "Django on sync": [
            (gunicorn(*sync), "bare", "django_site:bare", "/"),
            (gunicorn(*sync), "one call deferred", "django_site:deferring", "/defer"),
            (gunicorn(*sync), "django-after-response", "django_site:bare",
             "/after_response"),
        ],
        "Starlette on uvicorn": [
            (uvicorn(), "bare", "starlette_site:app", "/"),
            (uvicorn(), "BackgroundTask", "starlette_site:app", "/task"),
        ],
    }  # fmt: skip


def uvicorn():
    return [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "error"]


class NotHereError(Exception):
    """What a set-up needs is not installed, most likely."""


class SetUp:
    """A server that runs, and what was measured on it."""

    def __init__(self, command, title, app, path):
        self.title = title
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{path}"
        app = f"apps.{app}"
        where = ["--host", "127.0.0.1", "--port", str(port)]
        if "gunicorn" in command:
            where = ["--bind", f"127.0.0.1:{port}", "--log-level", "error"]
        self.server = subprocess.Popen(
            [*command, *where, "--workers", str(WORKERS), app],
            cwd=HERE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.rates, self.cpus, self.p99s = [], [], []
        self._wait_for(port)

    def _wait_for(self, port):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        while len(self.workers()) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.server.poll() is not None or len(self.workers()) < WORKERS:
            self.stop()
            said = self.server.stderr.read().strip().splitlines() or ["it said nothing"]
            raise NotHereError(f"{self.title} does not start: {said[-1]}")

    def workers(self):
        """The process ids of its workers."""
        pid = self.server.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # Not multiprocessing's resource tracker, which uvicorn starts.
        return [
            int(child)
            for child in listed
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def measure(self, seconds):
        workers = self.workers()
        before = sum(map(processor_time, workers))
        told = subprocess.run(
            ["wrk", "-t1", "-c8", f"-d{seconds}s", "--latency", self.url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        used = sum(map(processor_time, workers)) - before
        if workers != self.workers() or "Non-2xx" in told:
            raise SystemExit(f"{self.title} failed under load:\n{told}")
        requests, taken = re.search(r"(\d+) requests in ([\d.]+)s", told).groups()
        self.rates.append(int(requests) / float(taken))
        self.cpus.append(used / int(requests) / 1000)
        number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", told).groups()
        self.p99s.append(float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit])

    def stop(self):
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(10)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


def processor_time(pid):
    """Nanoseconds, of all threads of a process: Linux has a clock for each process."""
    return time.clock_gettime_ns(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED


def measure(title, rows, rounds):
    """Returns each set-up but the bare one, with the microseconds that it adds."""
    set_ups = []
    try:
        for command, *row in rows:
            try:
                set_ups.append(SetUp(command, *row))
            except NotHereError as error:
                print(f"\n{title}: {error}")
                if not set_ups:  # nothing to compare with
                    return []
        for each in set_ups:
            each.measure(1)
            each.rates, each.cpus, each.p99s = [], [], []
        for number in range(rounds):
            # There and back, so that none is always the first after a pause.
            for each in set_ups[:: 1 if number % 2 else -1]:
                each.measure(1)
    finally:
        for each in set_ups:
            each.stop()
    print(f"\n{title:40}{'cpu':>10}{'rate':>8}{'cpu':>8}{'p99':>8}")
    for each in set_ups:
        show(each, set_ups[0])
    return [(each.title, added(each, set_ups[0])) for each in set_ups[1:]]


def added(each, bare):
    """Microseconds more than the bare server, asked in turn."""
    return statistics.median(
        mine - its for mine, its in zip(each.cpus, bare.cpus, strict=True)
    )


def show(each, bare):
    """Its processor time, and the ratios to the bare server, asked in turn."""
    rate, cpu, p99 = (
        statistics.median(one / other for one, other in zip(mine, its, strict=True))
        for mine, its in ((each.rates, bare.rates), (bare.cpus, each.cpus),
                          (each.p99s, bare.p99s))
    )  # fmt: skip
    used = statistics.median(each.cpus)
    print(f"  {each.title:38}{used:7.1f} us{rate:8.3f}{cpu:8.3f}{p99:8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--rounds", type=int, help="of a second for each row")
    parser.add_argument("--only", default="", help="groups whose title has this in it")
    parser.add_argument("--chart", metavar="FOLDER", help="draw one, light and dark")
    options = parser.parse_args()
    if shutil.which("wrk") is None or not sys.platform.startswith("linux"):
        print("served.py needs Linux, and wrk: apt-get install wrk")
        return
    rounds = options.rounds or (4 if options.quick else 30)
    print("Served requests: processor time of the workers for each, and ratios to bare")
    print("(requests a second, processor time, 99th percentile of latency).")
    found = {
        title: measure(title, rows, rounds)
        for title, rows in groups().items()
        if options.only in title
    }
    found = {title: rows for title, rows in found.items() if rows}
    print("\nMicroseconds of a worker's processor time that each adds to a request:")
    for title, rows in found.items():
        told = ", ".join(f"{row} {more:.0f}" for row, more in rows)
        print(f"  {title}: {told}")
    if options.chart and found:
        chart.draw(
            {
                title: [(row, max(more, 0), row in OWN) for row, more in rows]
                for title, rows in found.items()
            },
            options.chart,
        )


if __name__ == "__main__":
    main()
