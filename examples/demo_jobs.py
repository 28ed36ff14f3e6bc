"""What `make demo` shows second: an id at once, and a worker that does the job.

It starts report_service.py under gunicorn, and a worker, in a new directory. It follows
two reports and retries the one that fails. The exit status is 1 if either of them does
not end as it should.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from demo import print_event, wait_for

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "wsgi_defer.jobs"]
TARGET = "report_service:jobs"
PATIENCE = 60  # seconds for a job to end


def main():
    try:
        import report_service  # noqa: F401 - whether its engine can run here
    except (ImportError, ValueError) as error:
        print(f"\nThe second part, jobs, is left out here: {error}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        place = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(HERE)}}
        # Creates the file. If two processes do so at once, one waits for the other, and
        # a request waits only 2 seconds.
        subprocess.run([*COMMAND, "list", TARGET], **place, check=True)
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0",
             "--no-control-socket", "report_service:app"],
            **place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        worker = subprocess.Popen(
            [*COMMAND, "worker", TARGET], **place, stderr=subprocess.DEVNULL
        )
        try:
            port = wait_for(server, r"Listening at: \S+:(\d+)")
            print("\nJobs: work that is kept until it is done, by a worker process.")
            return tell(f"http://127.0.0.1:{port}", Path(folder), place)
        finally:
            for process in (server, worker):
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def tell(url, folder, place):
    (folder / "orders-2026-10.csv").write_text("ada,30\ngrace,12\n")
    _, state = follow(url, "2026-10")
    job_id, without_file = follow(url, "2026-11")

    show("failed", place)
    print("\n  The file is put in its place, and the job is retried.")
    (folder / "orders-2026-11.csv").write_text("edsger,7\n")
    show("retry", place, job_id)
    retried = watch(url, job_id, time.time())
    if (state, without_file, retried) != ("done", "failed", "done"):
        print("\nA job did not end as it should. That is a fault.")
        return 1
    print("\nEach client had its id before the work began, and no job was lost.")
    return 0


def follow(url, month):
    """Ask for a report and print what becomes of it; return its id and last state."""
    print(f"\n  POST /reports month={month}")
    start = time.time()
    print_event(start, start, "client", "sends the request")
    form = urllib.parse.urlencode({"month": month}).encode()
    with urllib.request.urlopen(f"{url}/reports", form) as response:
        job_id = json.load(response)["job_id"]
        print_event(
            start, time.time(), "client", f"has {response.status}, and {job_id}"
        )
    return job_id, watch(url, job_id, start)


def watch(url, job_id, start):
    """Print each change of the job until it has ended."""
    seen = None
    while time.time() < start + PATIENCE:
        with urllib.request.urlopen(f"{url}/jobs/{job_id}") as response:
            job = json.load(response)
        if (job["state"], job["attempts"]) != seen:
            seen = job["state"], job["attempts"]
            more = job["result"] or job["error"] or ""
            text = f"{job['state']}, attempts: {job['attempts']}  {more}"
            print_event(start, time.time(), "GET /jobs/ID", text)
        if job["state"] in ("done", "failed"):
            return job["state"]
        time.sleep(0.02)
    return "late"


def show(command, place, *job_id):
    """Run a command for people, as they would, and print its output."""
    print(f"\n  $ python -m wsgi_defer.jobs {' '.join([command, TARGET, *job_id])}")
    out = subprocess.run(
        [*COMMAND, command, TARGET, *job_id], **place, text=True, check=True,
        stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    print("\n".join("  " + line for line in out.splitlines()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
