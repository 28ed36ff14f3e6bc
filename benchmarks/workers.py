"""How quickly workers do jobs, ours and DBOS's own, side by side.

Each row: jobs that do nothing, a second; how long a job waits when all is idle; what an
idle worker takes of a processor; and how long the first job waits for the worker's
start. Then the same with eight threads, for jobs that wait 20 ms.
"""

import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from wsgi_defer.jobs import Jobs

HOME = Path(__file__).parent.parent
JOBS = int(os.environ.get("JOBS", "400"))
NOTES = os.environ.get("NOTES", os.devnull)
jobs = Jobs(os.environ.get("JOBS_URL"))


def note(text):
    fd = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text} {time.time()}\n".encode())
    os.close(fd)


jobs.handler("nothing")(note)


@jobs.handler("waits")
def waits(text):
    time.sleep(0.02)
    note(text)


class Run:
    """The workers of one engine, with a file of what they have done."""

    def __init__(self, url, command):
        self.folder = tempfile.TemporaryDirectory()
        self.notes = Path(self.folder.name) / "notes"
        self.url = url.replace("FOLDER", self.folder.name)
        self.command = command
        self.workers = None

    def start(self):
        env = {**os.environ, "JOBS_URL": self.url, "NOTES": str(self.notes),
               "PYTHONPATH": f"{HOME}:{HOME / 'benchmarks'}"}  # fmt: skip
        self.workers = subprocess.Popen(
            [sys.executable, *self.command], env=env, stderr=subprocess.DEVNULL
        )

    def stop(self):
        self.workers.terminate()
        self.workers.wait()

    def done(self):
        """When each job was done."""
        if not self.notes.exists():
            return []
        lines = self.notes.read_text().splitlines()
        return [float(line.split()[-1]) for line in lines if len(line.split()) == 2]

    def wait(self, count, patience=300):
        deadline = time.monotonic() + patience
        while len(self.done()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.done())} of {count} jobs were done")
            time.sleep(0.002)


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


def measure(run, enqueue, name="nothing"):
    """Print the row of it."""
    enqueue(name, "first")
    start = time.time()
    run.start()
    run.wait(1)
    first = run.done()[0] - start
    run.stop()
    for number in range(JOBS):
        enqueue(name, number)
    run.start()
    run.wait(1 + JOBS)
    # Without the first third, in which other processes may still start.
    done = sorted(run.done()[1:])[JOBS // 3 :]
    rate = (len(done) - 1) / (done[-1] - done[0])
    time.sleep(2)
    waits = []
    for number in range(30):
        before = len(run.done())
        start = time.time()
        enqueue(name, number)
        run.wait(before + 1)
        waits.append(run.done()[-1] - start)
        time.sleep(0.05)
    time.sleep(1)
    before = used(run.workers.pid)
    time.sleep(10)
    idle = (used(run.workers.pid) - before) / 10
    run.stop()
    p50, p99 = (statistics.quantiles(waits, n=100)[n] * 1e3 for n in (49, 98))
    return (f"{rate:7.0f} jobs/s   waits {p50:4.0f} / {p99:4.0f} ms   idle "
            f"{idle:5.1%}   first {first:4.1f} s")  # fmt: skip


def ours(url, *options, name="nothing"):
    command = ["-m", "wsgi_defer.jobs", "worker", "workers:jobs", *options]
    run = Run(url, command)
    client = Jobs(run.url)
    client.handler("nothing")(note)
    client.handler("waits")(waits)
    return measure(run, client.enqueue, name)


def dbos_alone(most):
    """DBOS's own worker, as its documentation has it, on a file like ours."""
    from dbos import DBOSClient

    url = "sqlite:///FOLDER/own.db"
    run = Run(url, [__file__, "dbos", str(most)])
    Jobs(run.url).status("x")  # write-ahead log, and tables
    client = DBOSClient(system_database_url=run.url, application_name="own-worker")

    def enqueue(name, text):
        client.enqueue({"workflow_name": name, "queue_name": "own"}, text)

    return measure(run, enqueue)


def dbos_worker(most):
    import signal

    from dbos import DBOS

    DBOS(config={"name": "own-worker", "system_database_url": os.environ["JOBS_URL"],
                 "log_level": "ERROR", "enable_otlp": False})  # fmt: skip
    DBOS.workflow(name="nothing")(note)
    DBOS.launch()
    DBOS.register_queue("own", worker_concurrency=most, polling_interval_sec=0.1)
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


def main():
    # Not in the workers, which import this file.
    import pytest

    from tests.engines.services import Postgres, Rabbit, Redis

    print(f"{JOBS} jobs: those done a second, the wait of a job when all is idle (p50 "
          "and p99),\nwhat idle workers use of a processor, the first job after the "
          "start", flush=True)  # fmt: skip
    engines = [("DBOS on SQLite", "dbos", None), ("RQ on Redis", "rq", Redis),
               ("Celery on RabbitMQ", "celery", Rabbit),
               ("Procrastinate", "procrastinate", Postgres)]  # fmt: skip
    for title, package, server in engines:
        if importlib.util.find_spec(package) is None:
            print(f"{title}: {package} is not installed")
            continue
        running = None
        try:
            url = "sqlite:///FOLDER/jobs.db"
            if server is not None:
                server.skip_unless_installed()
                running = server()
                url = running.database("ours") if server is Postgres else running.url
            for options in (["--processes", "1"], ["--processes", "4"]):
                print(f"{title:20} {' '.join(options):14}", ours(url, *options),
                      flush=True)  # fmt: skip
            if package in ("dbos", "procrastinate"):
                print(f"{title:20} --threads 8    ",
                      ours(url, "--threads", "8", name="waits"), "(20 ms each)",
                      flush=True)  # fmt: skip
            if package == "dbos":
                print(f"{'DBOS itself':20} 8 at a time   ", dbos_alone(8), flush=True)
        except (pytest.skip.Exception, TimeoutError) as reason:
            print(f"{title}: {reason}")
        finally:
            if running is not None:
                running.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["dbos"]:
        dbos_worker(int(sys.argv[2]))
    else:
        main()
