"""Many requests, back to back, each deferring a short call.

``python -m tests.wire.stress`` prints, for each set-up: the errors that clients saw,
the calls that were lost, those that ran twice, and how long the next request on the
same connection took, beside the same app with nothing deferred.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase

from . import servers
from .client import PATIENCE, Connection, Message

CALL = 0.002  # seconds that a call takes
DEFAULT = ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", "gunicorn-*-ours",
           "nginx-*-ours", "uwsgi-http", "werkzeug"]  # fmt: skip
# They never say that they close: whoever sends at once may be too late.
SILENT = ["uwsgi-http", "uwsgi-threads", "uwsgi-mount", "uwsgi-router"]


@dataclass
class Run:
    """What came of one run."""

    requests: int
    errors: list[str]
    lost: int
    twice: int
    times: list[float]  # seconds, of each request but the first of a connection

    @property
    def p99(self):
        """The time within which 99 of 100 requests had their answer."""
        return statistics.quantiles(self.times, n=100)[98]


def run(server, number, *, keep, defer, wait=PATIENCE):
    """Send that many requests, one after the other; ``keep``: on one connection."""
    key = f"stress-{'keep' if keep else 'close'}-{defer}-{time.monotonic_ns()}"
    calls = f"seconds={CALL}&ticks=" if defer else "calls=0&number="
    errors, times, connection = [], [], None
    for each in range(number):
        try:
            again = connection is not None
            began = time.perf_counter()
            connection = connection or Connection(server)
            message = Message("GET")
            headers = [] if keep else ["Connection: close"]
            target = f"/list?key={key}&{calls}{each}"
            connection.send("GET", target, "HTTP/1.1", *headers)
            connection.read(message, time.monotonic() + PATIENCE)
            if again or not keep or message.announces_close:
                times.append(time.perf_counter() - began)
            if not message.complete or bytes(message.body) != b"hello":
                raise ConnectionError(f"{bytes(message.data[-80:])!r}")
            ends = not keep or message.announces_close
        except (OSError, AttributeError) as error:
            errors.append(f"request {each}: {error!r}")
            ends = True
        if ends and connection is not None:
            connection.socket.close()
            connection = None
    if connection is not None:
        connection.socket.close()
    ran = count(server, key, number, wait) if defer else Counter(range(number))
    return Run(
        number,
        errors,
        lost=number - len(ran),
        twice=sum(times > 1 for times in ran.values()),
        times=times,
    )


def count(server, key, number, wait):
    """How often each call ran, as soon as all did, or when waiting is no use."""
    path, last, since = server.root / f"{key}.ticks", -1, time.monotonic()
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) != last:
            last, since = len(lines), time.monotonic()
        if len(lines) >= number or time.monotonic() - since > wait:
            return Counter(lines)
        time.sleep(0.02)


def main():
    """Run it for each set-up, and end with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.stress")
    parser.add_argument("setups", nargs="*", default=DEFAULT)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    wrong = False
    print(f"{options.requests} requests each; a call takes {CALL * 1000:.0f} ms")
    print(f"{'set-up':30} {'':5} errors lost twice  p99 plain  p99 deferring  times")
    for name, setup in servers.SETUPS.items():
        if not any(fnmatchcase(name, each) for each in options.setups):
            continue
        if setup.protocols == ("h2",):
            continue
        if missing := setup.missing():
            print(f"{name:30} {missing} is not installed")
            continue
        with servers.running(name) as server:
            for keep in (False,) if name in SILENT else (True, False):
                run(server, options.requests // 10, keep=keep, defer=False)  # warm up
                plain = run(server, options.requests, keep=keep, defer=False)
                ours = run(server, options.requests, keep=keep, defer=True)
                errors = len(plain.errors) + len(ours.errors)
                print(
                    f"{name:30} {'keep' if keep else 'close':5} {errors:6} "
                    f"{ours.lost:4} {ours.twice:5} {plain.p99 * 1000:7.2f} ms "
                    f"{ours.p99 * 1000:11.2f} ms  {ours.p99 / plain.p99:.2f}",
                    flush=True,
                )
                for error in ours.errors[:3]:
                    print(f"    {error}")
                wrong |= bool(errors or ours.lost or ours.twice)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
