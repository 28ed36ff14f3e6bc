"""How many jobs are lost when all worker processes are killed, again and again.

    python -m tests.engines.kills rq --jobs 500 --kills 12

starts the server, enqueues the jobs, kills the supervisor and all its workers by
SIGKILL at random times, and starts them again. It prints a line for each engine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

from .kinds import KINDS, Place, Servers

RECOVERY = 120.0  # seconds after the last kill in which all jobs must be done


@dataclass
class Count:
    """What became of the jobs of one run."""

    engine: str
    jobs: int
    kills: int
    lost: int
    twice: int  # whose handler ended more than once
    restarted: int  # that started more than once
    after: float  # seconds from the last kill to the end of the last job

    def __str__(self):
        return (
            f"{self.engine:16} {self.jobs} jobs, {self.kills} kills: {self.lost} lost, "
            f"{self.twice} twice, {self.restarted} started again, "
            f"{self.after:.0f} s from the last kill to the last job"
        )


def run(place, jobs=500, kills=12, seed=7, seconds=(0.02, 0.06), threads=1):
    """Run it once. ``seconds``: the least and the most that a job takes."""
    chance = random.Random(seed)
    ids = [place.enqueue("nap", chance.uniform(*seconds)) for _ in range(jobs)]
    workers = place.work(2, threads)
    for _ in range(kills):
        before = len(place.notes)
        deadline = time.monotonic() + 20  # there may be nothing left to do
        while len(place.notes) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.8))
        workers.kill()
        killed = time.time()
        workers = place.work(2, threads)
    try:
        place.until(lambda: set(ids) <= ended(place).keys(), "all done", RECOVERY)
    except AssertionError:
        pass  # they are counted
    ends = ended(place)
    if place.kind.can("status"):
        for job_id in set(ids) & ends.keys():
            assert place.wait(job_id).state == "done"
    last = max(float(words[-1]) for words in place.notes)
    workers.kill()
    starts = Counter(words[1] for words in place.notes if words[0] == "start")
    return Count(
        str(place.kind), jobs, kills,
        lost=len(set(ids) - ends.keys()),
        twice=sum(count > 1 for count in ends.values()),
        restarted=sum(count > 1 for count in starts.values()),
        after=last - killed,
    )  # fmt: skip


def most_twice(kills, threads=1):
    """How many jobs may end twice: those that a kill hits before their end is stored.

    Such a one may be in each thread of two processes.
    """
    return 2 * kills * threads


def usual_twice(kind, kills, threads=1):
    """How many hardly ever more end twice, on a machine that is not busy.

    Without a result backend, Celery cannot know which jobs have ended.
    """
    return threads * 5 if kind.can("status") else most_twice(kills, threads)


def ended(place):
    """How often each job has ended."""
    return Counter(words[1] for words in place.notes if words[0] == "end")


def main():
    """Count for the engines that are named, or for all."""
    parser = argparse.ArgumentParser("python -m tests.engines.kills")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=" ".join(KINDS))
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.engines) - KINDS.keys()
    if unknown:
        parser.error(f"these are no engines: {', '.join(sorted(unknown))}")
    servers, bad = Servers(), False
    try:
        for name in options.engines or KINDS:
            place = Place(KINDS[name], servers)
            try:
                count = run(place, options.jobs, options.kills, options.seed,
                            threads=options.threads)  # fmt: skip
            finally:
                place.close()
            print(count, flush=True)
            most = usual_twice(KINDS[name], count.kills, options.threads)
            bad = bad or count.lost > 0 or count.twice > most
    finally:
        servers.close()
    sys.exit(bad)


if __name__ == "__main__":
    main()
