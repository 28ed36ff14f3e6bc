"""What users notice of a refresh: 200 requests a second for a value that gets stale.

gunicorn with four workers; each refresh takes 0.3 s, and the value is fresh for 1 s.
The same requests for a value that stays fresh are what to compare with. Then all of it
once more, while a worker is killed every second. ``--quick`` takes five seconds each.

A request is late if it takes longer than 1.2 times the 99th percentile for the fresh
value. The requests of workers that are killed are errors, and no more than that. Overlaps are
refreshes that began while another one ran.
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


class Seen:
    """The seconds that requests took, the ages that they told, and what failed."""

    def __init__(self):
        self.taken, self.ages, self.errors = [], [], 0
        self.killed = {}  # when, by process

    def overlaps(self, notes):
        """But for a process that is being killed, whose locks end one by one."""
        found = re.findall(r"overlap with (\d+) at (\S+)", notes)
        return sum(
            not 0 < float(at) - self.killed.get(int(pid), math.inf) < 0.1
            for pid, at in found
        )

    def row(self, title, bound, notes):
        at = statistics.quantiles(self.taken, n=100)
        bound = bound or 1.2 * at[98]
        late = sum(taken > bound for taken in self.taken)
        figures = "".join(
            f"{taken * 1e3:9.1f}" for taken in (at[49], at[98], max(self.taken))
        )
        print(
            f"{title:24}{len(self.taken):9}{figures}{late:7}{max(self.ages):9.2f}"
            f"{notes.count('begun'):10}{self.overlaps(notes):9}{self.errors:8}",
            flush=True,
        )
        return bound


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


async def ask_many(port, path, seconds, kills):
    """Send them when they are due, whatever becomes of those before."""
    seen, tasks, start = Seen(), [], time.perf_counter()
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(start + number / RATE - time.perf_counter())
        tasks.append(asyncio.create_task(ask(port, path, seen)))
        if kills and number % RATE == RATE // 2:
            pid = random.choice(kills())
            seen.killed[pid] = time.monotonic()
            os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*tasks)
    return seen


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
    seconds = 5 if parser.parse_args().quick else 20
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
                bound = None
                for path in ("/fresh", "/stale"):
                    asyncio.run(ask_many(port, path, 2, None))  # to warm up
                    notes.write_text("")
                    seen = asyncio.run(ask_many(port, path, seconds, killing))
                    title = path[1:] + (", with kills" if killing else "")
                    bound = seen.row(title, bound, notes.read_text())
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
