"""What users notice of a refresh: 200 requests a second for a value that gets stale.

gunicorn with four workers; each refresh takes 0.3 s, and the value is fresh for 1 s.
The same requests for a value that stays fresh are what to compare with. Then all of it
once more, while a worker is killed every second. 20 seconds each; ``--quick`` takes 5.

A request is late if it takes longer than 1.2 times the 99th percentile for the fresh
value. The requests of workers that are killed are errors, and no more than that.
Overlaps are refreshes that began while another one ran.
"""

import argparse
import asyncio
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WORKERS, RATE = 4, 200
SLICE = 5  # seconds; they take turns, for a machine that changes its speed


class Seen:
    """The seconds that requests took, the ages that they told, and what failed."""

    def __init__(self):
        self.taken, self.ages, self.errors, self.notes = [], [], 0, ""
        self.killed = {}  # when, by process

    def at(self, percent):
        """The seconds that so many of them took at most."""
        return statistics.quantiles(self.taken, n=100)[percent - 1]

    def overlaps(self):
        """But for a process that is being killed, whose locks end one by one."""
        found = re.findall(r"overlap with (\d+) at (\S+)", self.notes)
        return sum(
            not 0 < float(at) - self.killed.get(int(pid), math.inf) < 0.1
            for pid, at in found
        )

    def print_row(self, title, bound):
        """Its figures; requests that took longer than the bound are late."""
        late = sum(taken > bound for taken in self.taken)
        taken = [1e3 * each for each in (self.at(50), self.at(99), max(self.taken))]
        print(
            f"{title:24}{len(self.taken):9}" + "".join(f"{each:9.1f}" for each in taken)
            + f"{late:7}{max(self.ages):9.2f}{self.notes.count('begun'):10}"
            f"{self.overlaps():9}{self.errors:8}",
            flush=True,
        )  # fmt: skip


async def ask(port, path, seen):
    start = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer.lower())[1])
            body = await reader.readexactly(length)
        finally:
            writer.close()
    except (OSError, asyncio.IncompleteReadError):
        seen.errors += 1
    else:
        seen.taken.append(time.perf_counter() - start)
        seen.ages.append(float(body))


async def ask_many(port, path, seconds, kills, seen):
    """Send them when they are due, whatever becomes of those before."""
    tasks, start = [], time.perf_counter()
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(start + number / RATE - time.perf_counter())
        tasks.append(asyncio.create_task(ask(port, path, seen)))
        if kills and number % RATE == RATE // 2:
            pid = random.choice(kills())
            seen.killed[pid] = time.monotonic()
            os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*tasks)


def children(parent):
    """The workers: each is a child of the gunicorn that we have started."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in found.split()]


def start(root):
    """A gunicorn that serves the app, and its port."""
    command = [
        sys.executable, "-m", "gunicorn", "--no-control-socket", "--chdir",
        str(HERE / "apps"), "-c", "python:wsgi_defer.gunicorn", "-w", str(WORKERS),
        "-b", "127.0.0.1:0", "flexible_site:app",
    ]  # fmt: skip
    log = root / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=HERE,
            env={**os.environ, "FLEXIBLE_ROOT": str(root)},
        )  # fmt: skip
    while not (found := re.search(r"Listening at: \S+:(\d+)", log.read_text())):
        if server.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.1)
    return server, int(found[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 1 if parser.parse_args().quick else 4
    with tempfile.TemporaryDirectory() as folder:
        server, port = start(Path(folder))
        notes = Path(folder, "notes")
        try:
            print(
                f"{'':24}{'requests':>9}{'p50 ms':>9}{'p99 ms':>9}{'most ms':>9}"
                f"{'late':>7}{'oldest s':>9}{'refreshes':>10}{'overlaps':>9}"
                f"{'errors':>8}"
            )
            for killing in (None, lambda: children(server.pid)):
                both = {"/fresh": Seen(), "/stale": Seen()}
                for _ in range(rounds):
                    for path, seen in both.items():
                        asyncio.run(ask_many(port, path, 2, None, Seen()))  # to warm up
                        notes.write_text("")
                        asyncio.run(ask_many(port, path, SLICE, killing, seen))
                        seen.notes += notes.read_text()
                bound = 1.2 * both["/fresh"].at(99)
                for path, seen in both.items():
                    seen.print_row(path[1:] + ", with kills" * bool(killing), bound)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
