"""``make screenshots``: the pictures of docs/status.md, of a shop that is not there."""

from __future__ import annotations

import random
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import patch
from wsgiref.simple_server import WSGIRequestHandler, make_server

from wsgi_defer.jobs import Job, Jobs
from wsgi_defer.ledger import (
    CallFigures,
    Failure,
    Histogram,
    Snapshot,
    WorkerFigures,
)
from wsgi_defer.status import StatusPage

from .chromium import Chromium

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SHOTS = {
    "status-light": ((1100, 1010), False),
    "status-dark": ((1100, 1010), True),
    "status-phone": ((390, 844), False),
}
NOW = 1_796_126_400.0  # noon, on 2026-12-01
dice = random.Random(7)  # the same picture each time


def histogram(median, number=400):
    """Times around that median, in seconds."""
    times = [dice.lognormvariate(0, 0.9) * median for _ in range(number)]
    counts = [0] * (len(BOUNDS) + 1)
    for each in times:
        counts[sum(bound < each for bound in BOUNDS)] += 1
    return Histogram(BOUNDS, tuple(counts), sum(times))


def minute(busy):
    """Some seconds of a worker, busy for that part of them."""
    pairs = []
    for _ in range(60):
        request = dice.random() * 0.3 * busy
        after = min(dice.random() * busy * 1.3, 1 - request)
        pairs.append((request, after if dice.random() < 0.75 else 0.0))
    return tuple(pairs)


def worker(pid, state, since, call="", request="", waiting=0, busy=0.5):
    return WorkerFigures(
        pid, NOW - 16_200, state, NOW - since, call, request, waiting,
        dice.randrange(9000, 12_000), dice.randrange(70, 95) * 10**6, minute(busy),
    )  # fmt: skip


def calls(name, finished, failed, skipped, lost, waiting, running, waited, ran):
    return CallFigures(name, finished, failed, skipped, lost, waiting, running,
                       histogram(waited), histogram(ran))  # fmt: skip


def failure(ago, name, error, origin, request, pid):
    return Failure(NOW - ago, name, error, f"/srv/shop/{origin}", request, pid)


SNAPSHOT = Snapshot(
    NOW, NOW - 16_200, True, "shop",
    (
        worker(4127, "after response", 0.8, "shop.mail.welcome", "9f31c7", 2, 0.8),
        worker(4128, "request", 0.04, busy=0.4),
        worker(4129, "idle", 2.1, busy=0.3),
        worker(4130, "after response", 3.4, "shop.thumbnails.make", "9f31c2", 0, 0.9),
        worker(4131, "idle", 0.3, busy=0.2),
        worker(4132, "idle", 5.7, busy=0.1),
    ),
    (
        calls("shop.audit.write", 41_207, 0, 12, 0, 1, 0, 0.003, 0.004),
        calls("shop.mail.welcome", 3_911, 4, 87, 0, 1, 1, 0.006, 0.31),
        calls("shop.search.reindex", 12_480, 0, 0, 1, 0, 0, 0.004, 0.06),
        calls("shop.thumbnails.make", 2_055, 1, 3, 0, 0, 1, 0.011, 1.4),
    ),
    (
        failure(412, "shop.mail.welcome", "SMTPServerDisconnected",
                "views/signup.py:48", "9f2e07", 4129),
        failure(1_927, "shop.thumbnails.make", "UnidentifiedImageError",
                "views/upload.py:31", "9f0d11", 4130),
        failure(9_310, "shop.mail.welcome", "TimeoutError",
                "views/signup.py:48", "9e7a52", 4127),
    ),
    64_310, 7, 1, 0, 9, 2048, 3, 0.42,
)  # fmt: skip


class Engine:
    """The jobs of that shop."""

    at = datetime.fromtimestamp(NOW, timezone.utc)

    def counts(self, by_name):
        return [
            ("mail.invoice", "done", 1_204), ("mail.invoice", "failed", 1),
            ("mail.invoice", "queued", 2), ("reports.nightly", "done", 31),
            ("reports.nightly", "scheduled", 1),
        ]  # fmt: skip

    def failed(self, limit, name=None):
        return [
            Job("01KC3Z8Q5W", "mail.invoice", "failed", 5,
                "SMTPRecipientsRefused: mailbox unavailable",
                finished_at=self.at - timedelta(minutes=24)),
        ]  # fmt: skip

    def recent(self, limit, name=None, state=None):
        return [
            Job("01KC4A7N2M", "mail.invoice", "queued", 0, None, self.at),
            Job("01KC4A7M0V", "mail.invoice", "queued", 0, None, self.at),
        ]


class Quiet(WSGIRequestHandler):
    """Without a log."""

    def log_message(self, *args):
        pass


def main():
    """Write the pictures."""
    jobs = Jobs(None)
    jobs._instead = Engine()
    jobs.every(timedelta(hours=24), name="reports.nightly")(print)
    page = StatusPage(allow=lambda environ: True, jobs=jobs, actions=True)
    server = make_server("127.0.0.1", 0, page, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    PICTURES.mkdir(exist_ok=True)
    url = f"http://127.0.0.1:{server.server_port}/"
    shown = patch("wsgi_defer.status._page.snapshot", lambda: SNAPSHOT)
    with shown, Chromium() as chromium:
        for name, (size, dark) in SHOTS.items():
            path = PICTURES / f"{name}.png"
            chromium.open(url, size=size, dark=dark).screenshot(path, whole=False)
            print(f"{path}: {path.stat().st_size // 1000} kB")
    server.shutdown()


if __name__ == "__main__":
    main()
