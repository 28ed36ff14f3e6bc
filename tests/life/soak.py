"""Many requests while workers are killed: what became of every call?

``python -m tests.life.soak`` prints it; ``make soak`` does that. A call must have
finished, or been skipped as its response was no success, or be named as lost, and the
figures of the ledger must say the same, exactly. The master must not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..helpers.waiting import InVainError, until, whole_lines
from . import BODY
from .cell import ROWS
from .gunicorns import INSTALL, configuration, is_loss, running

CLIENTS = 8
EVERY = 10  # each request of this many is answered with 404, and its calls skipped
WARM_UP = 200  # requests, before the first signal
# kB that the master may grow by, from a third of the signals on. The ledger has 256
# for each worker that lives at a time, and while gunicorn reloads, twice as many do.
GROWTH = 3072
# Seconds until the master kills a worker that is stuck. gunicorn's gthread worker is
# if QUIT or INT comes while it gives a request to its threads: it waits for its lock.
TIMEOUT = 20
KILL = [signal.SIGKILL]
# To a worker each, and HUP to the master.
MIXED = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGQUIT,
         signal.SIGINT, signal.SIGHUP]  # fmt: skip
# Not on a port: so many connections would use them all up.
HOOKS = f"""
import os
bind = f"unix:{{os.environ['LIFE_ROOT']}}/socket"
{INSTALL}
"""


@dataclass
class Master:
    """What the master process uses."""

    kilobytes: int
    descriptors: int

    @classmethod
    def of(cls, pid):
        """Ask the kernel."""
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
        return cls(kilobytes, len(os.listdir(f"/proc/{pid}/fd")))


@dataclass
class Result:
    """What became of the calls; sets of names."""

    requests: int
    answered: int
    kills: int
    seconds: float
    deferred: set[str]
    finished: set[str]
    named: set[str]
    skipped: set[str]
    twice: set[str]
    silent: set[str]
    figures: Counter[str]  # by the ledger: what became of how many calls
    before: Master
    after: Master

    def wrong(self):
        """A sentence for each thing that is not as it must be."""
        if self.silent:
            some = ", ".join(sorted(self.silent)[:5])
            yield f"nobody knows of {len(self.silent)} calls: {some}"
        if self.twice:
            yield f"{len(self.twice)} calls ran twice"
        if ran := self.skipped & self.finished:
            yield f"{len(ran)} calls ran that should have been skipped"
        # A call may note that it has finished, and be killed before it has ended.
        if len(self.finished & self.named) > self.kills:
            yield f"{len(self.finished & self.named)} calls finished, but were named"
        if self.figures != (known := self.known()):
            yield f"the figures are {dict(self.figures)}, and not {dict(known)}"
        if self.after.descriptors > self.before.descriptors:
            yield "the master has more files open than before"
        if self.after.kilobytes > self.before.kilobytes + GROWTH:
            yield "the master has grown"

    def known(self):
        """The same as ``figures``, by clients and log.

        A call that has finished, and was killed before it had ended, is lost.
        """
        return Counter(
            finished=len(self.finished - self.named),
            failed=0,
            skipped=len(self.skipped),
            lost=len(self.named),
        )

    def report(self):
        """The numbers, for people."""
        return "\n".join([
            f"{self.requests} requests in {self.seconds:.0f} s, {self.answered} "
            f"answered; {self.kills} signals",
            f"{len(self.deferred)} calls: {len(self.finished)} finished, "
            f"{len(self.skipped)} skipped, {len(self.named)} named as lost "
            f"({len(self.finished & self.named)} of them at their very end), "
            f"{len(self.silent)} unknown, {len(self.twice)} twice",
            f"figures: {dict(self.figures)}",
            f"master: {self.before.kilobytes} kB and {self.before.descriptors} files "
            f"before, {self.after.kilobytes} kB and {self.after.descriptors} after",
            *(f"WRONG: {each}" for each in self.wrong()),
        ])  # fmt: skip


def names_of(number):
    """The calls of that request: one or two."""
    return [f"r{number}.{each}" for each in range(1, 2 + number % 2)]


def is_skipped(name):
    """Whether that call belongs to a request that is no success."""
    return int(name[1:].partition(".")[0]) % EVERY == 0


class Soak:
    """The clients and the killer of one run."""

    def __init__(self, gunicorn, requests, workers, kills, pause, signals):
        self.gunicorn = gunicorn
        self.requests, self.workers = requests, workers
        self.left, self.pause, self.signals = kills, pause, signals
        self.numbers = itertools.count()
        self.kills = 0
        self.sent, self.answered = [], []  # numbers of requests
        self.warm = threading.Event()
        self.broken = threading.Event()

    def run(self):
        """Send the requests, and kill the workers; returns how long it took."""
        began = time.monotonic()
        threads = [threading.Thread(target=self.client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            self.warm.wait()
            self.kill(self.left // 3)
            self.before = self.measure()
            self.kill(self.left)
        except BaseException:
            self.broken.set()
            raise
        finally:
            for thread in threads:
                thread.join()
        return time.monotonic() - began

    def client(self):
        """Send one request after the other, on a connection each, whatever happens."""
        while not self.broken.is_set():
            number = next(self.numbers)
            if number >= self.requests and not self.left:
                return
            if number >= WARM_UP:
                self.warm.set()
            self.sent.append(number)
            try:
                if self.request(number):
                    self.answered.append(number)
            except OSError:
                pass  # the next one has a new connection

    def request(self, number):
        """Send that request; whether the whole response came."""
        status = "404%20Not%20Found" if number % EVERY == 0 else "200%20OK"
        target = f"/quick?names={','.join(names_of(number))}&status={status}"
        return self.get(target) is not None

    def get(self, target):
        """The whole response to a request, or None."""
        data = b""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(self.gunicorn.server.address)
            sock.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            while not data.endswith(BODY):
                if not (chunk := sock.recv(4096)):
                    return None
                data += chunk
        return data

    def kill(self, times):
        """Send a signal to a worker at random, that many times."""
        for _ in range(times):
            time.sleep(self.pause)
            number = random.choice(self.signals)
            if number == signal.SIGHUP:
                self.gunicorn.send(number)
            elif pids := self.children():
                with contextlib.suppress(ProcessLookupError):  # dead meanwhile
                    os.kill(random.choice(pids), number)
            self.kills += 1
            self.left -= 1

    def children(self):
        """The ids of the processes that the master has started."""
        pid = self.gunicorn.master.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return list(map(int, children.read_text().split()))

    def measure(self):
        """What the master uses when it has all its workers."""
        self.gunicorn.until(
            lambda: len(self.children()) == self.workers, "all workers to be there"
        )
        return Master.of(self.gunicorn.master.pid)

    def notes(self):
        """How often each thing is noted of each call: a Counter of its lines."""
        lines = Counter()
        for path in self.gunicorn.root.glob("soak-*"):
            lines.update(whole_lines(path.read_text()))
        return lines

    def figures(self):
        """What the ledger says has become of the calls: of all names, and workers."""
        if (response := self.get("/figures")) is None:
            raise OSError("the response was cut")
        taken = json.loads(response.partition(b"\r\n\r\n")[2].removesuffix(BODY))
        return Counter({
            result: sum(call[result] for call in taken["calls"])
            for result in ("finished", "failed", "skipped", "lost")
        })  # fmt: skip

    def result(self, seconds):
        """Count what became of the calls."""
        lines = self.notes()
        noted = {
            event: {
                line.partition(" ")[2] for line in lines if line.startswith(event)
            }
            for event in ("deferred", "finished")
        }  # fmt: skip
        deferred = noted["deferred"].union(*map(names_of, self.answered))
        named = set()
        for line in self.gunicorn.log.splitlines():
            if is_loss(line):
                named.update(re.findall(r"\br\d+\.\d\b", line))
        skipped = set(filter(is_skipped, deferred)) - named
        finished = noted["finished"]
        return Result(
            requests=len(self.sent),
            answered=len(self.answered),
            kills=self.kills,
            seconds=seconds,
            deferred=deferred,
            finished=finished,
            named=named,
            skipped=skipped,
            twice={line for line, times in lines.items() if times > 1},
            silent=deferred - finished - skipped - named,
            figures=self.figures(),
            before=self.before,
            after=self.measure(),
        )


def soak(
    row, requests, workers, kills, pause, *, signals=KILL, hooks=HOOKS, busy=False
):
    """Run it, and return the ``Result`` when it is settled.

    ``busy``: calls give way to clients that wait.
    """
    version, worker, ours, app = ROWS[row]
    app = "busy" if busy else app
    conf = configuration(
        worker, ours=ours, hooks=hooks, workers=workers, timeout=TIMEOUT
    )
    with running(conf, version=version, app=f"tests.life.app:{app}") as gunicorn:
        run = Soak(gunicorn, requests, workers, kills, pause, signals)
        seconds = run.run()
        # The last calls, and the master's word on them, and what it has just closed.
        with contextlib.suppress(InVainError):
            until(lambda: not any(run.result(seconds).wrong()), patience=30)
        return run.result(seconds)


def main():
    """Run it, print what came of it, and end with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.life.soak")
    parser.add_argument("row", nargs="?", default="27-sync-ours", choices=ROWS)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-seconds", type=int, default=60)
    parser.add_argument(
        "--mixed", action="store_true", help="not SIGKILL alone, but other signals, too"
    )
    options = parser.parse_args()
    result = soak(
        options.row, options.requests, options.workers, options.kill_seconds, 1.0,
        signals=MIXED if options.mixed else KILL,
    )  # fmt: skip
    print(result.report())
    sys.exit(any(result.wrong()))


if __name__ == "__main__":
    main()
