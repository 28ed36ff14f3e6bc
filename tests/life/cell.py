"""One cell of the table: three calls, one event, and what then is known of each call.

The words for what is wrong:

=======  ===========================================================================
silent   a call has neither finished nor been named as lost: nobody knows of it
both     a call has finished, and was named as lost
again    a call was named as lost twice
cut      a call did not finish that could have
late     a loss was named only when the master ended, which it does once a year
extra    the client got a byte after its complete response, or another response
stuck    the worker or the master did not end, or the connection was never closed
=======  ===========================================================================
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from subprocess import TimeoutExpired

from ..helpers.programs import is_alive
from ..helpers.waiting import InVainError
from ..wire import servers
from . import BODY, CALLS
from .faults import could_finish
from .gunicorns import INSTALL, configuration, losses, running

REPORT = 20.0  # seconds until the master must have named what a dead worker has lost
TIMEOUT = 8  # seconds; a worker may take this long to boot, too, on a busy machine
LONG = 14  # seconds, more than the timeout and the second until gunicorn's SIGKILL
FOR_EVER = 60  # seconds of a call that is killed, however late


def rows():
    """gunicorn's releases, worker classes, whose they are, and the app."""
    for version in ("23.0.0", None):
        number = version.split(".")[0] if version else "27"
        for worker in ("sync", "gthread", "gevent"):
            yield f"{number}-{worker}", (version, worker, False, "app")
            yield f"{number}-{worker}-ours", (version, worker, True, "app")
        yield f"{number}-background", (version, "sync", False, "elsewhere")


ROWS = dict(rows())


def nothing(gunicorn):
    """It happens by itself."""


def to_master(number, *, ends=True):
    """A function that sends this signal to the master, when the first call runs."""

    def happen(gunicorn):
        gunicorn.begun(CALLS[0])
        gunicorn.stop(number) if ends else gunicorn.send(number)

    return happen


def kill_worker(gunicorn):
    """Kill the worker, when the second call runs."""
    os.kill(gunicorn.begun(CALLS[1]), signal.SIGKILL)


@dataclass
class Event:
    """Something that happens to a worker: how, and with which settings and calls."""

    says: str
    happen: Callable[..., object] = nothing
    settings: dict[str, int] = field(default_factory=dict)
    query: str = ""


TERM, HUP = to_master(signal.SIGTERM), to_master(signal.SIGHUP, ends=False)
LIMIT = {"timeout": TIMEOUT}
EVENTS = {
    "TERM": Event("the master gets TERM, with time enough", TERM),
    "TERM-short": Event(
        "each call takes 3 seconds, graceful_timeout is 5", TERM,
        {"graceful_timeout": 5}, "seconds=3",
    ),
    "HUP": Event("the master gets HUP, with time enough", HUP),
    "HUP-short": Event(
        "each call takes 3 seconds, graceful_timeout is 1", HUP,
        {"graceful_timeout": 1}, "seconds=3",
    ),
    "QUIT": Event("the master gets QUIT", to_master(signal.SIGQUIT)),
    "INT": Event("the master gets INT", to_master(signal.SIGINT)),
    "SIGKILL": Event(
        "the worker is killed in the second call", kill_worker,
        query=f"long={FOR_EVER}",
    ),
    "SIGSEGV": Event("the second call reads address zero", query="second=crash"),
    "timeout": Event(
        f"the second call blocks in Python for {LONG} s, the timeout is {TIMEOUT}",
        settings=LIMIT, query=f"second=block&long={LONG}",
    ),
    "timeout-C": Event(
        "the same in C code, with the GIL", settings=LIMIT,
        query=f"second=hold&long={LONG}",
    ),
    "max": Event("max_requests is 1", settings={"max_requests": 1}),
    "max-short": Event(
        "and graceful_timeout, too, and each call takes 3 seconds",
        settings={"max_requests": 1, "graceful_timeout": 1}, query="seconds=3",
    ),
}  # fmt: skip


def missing(row):
    """What is not installed for that row, or None."""
    version, worker, _, _ = ROWS[row]
    if version and not (servers.GUNICORNS / version / "gunicorn").exists():
        return f"gunicorn {version}"
    if worker == "gevent" and not importlib.util.find_spec("gevent"):
        return "gevent"
    return None


@dataclass
class Cell:
    """What was seen: the faults, and a few words on each for the reader."""

    finished: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    log: str = field(default="", repr=False)

    def fault(self, word, note=""):
        """Add a fault, once."""
        if word not in self.faults:
            self.faults.append(word)
        if note:
            self.notes.append(note)

    def judge(self, row, event):
        """Compare the calls that finished with those that were named."""
        if silent := set(CALLS) - self.finished - self.named:
            self.fault("silent", f"nobody knows of {', '.join(sorted(silent))}")
        if both := self.finished & self.named:
            self.fault("both", f"finished, but named: {', '.join(sorted(both))}")
        if len(self.finished) < (least := could_finish(row, event)):
            self.fault("cut", f"{least} could have finished")

    def __str__(self):
        """How many finished, how many were named, and the faults."""
        sums = f"{len(self.finished)}+{len(self.named)}"
        return " ".join([sums, *self.faults])


def measure(row, event, *, hooks=INSTALL, report=REPORT):
    """Start a gunicorn, send one request, let the event happen, and judge it."""
    version, worker, ours, app = ROWS[row]
    what = EVENTS[event]
    settings = {"timeout": 60, "graceful_timeout": 30, **what.settings}
    conf = configuration(worker, ours=ours, hooks=hooks, **settings)
    cell = Cell()
    app = f"tests.life.app:{app}"
    with running(conf, version=version, app=app) as gunicorn:
        began = time.monotonic()
        client = gunicorn.request(f"/calls?{what.query}")
        if client.response != BODY:
            cell.fault("extra", f"the response is {client.response!r}")
        pid = gunicorn.begun(CALLS[0])
        try:
            if worker == "sync":
                # A QUIT that comes before gunicorn has closed the connection is
                # answered with an error page, with nothing deferred, too.
                gunicorn.until(lambda: client.message.eof, "the connection to end")
            what.happen(gunicorn)
            if gunicorn.master.poll() is None:
                await_end(gunicorn, pid, cell, event == "timeout", report)
            gunicorn.until(lambda: not is_alive(pid), "the worker to end")
            if surplus := client.surplus():
                cell.fault("extra", f"after the response: {surplus!r}")
        except (InVainError, TimeoutError, TimeoutExpired) as error:
            cell.fault("stuck", str(error).partition("\n")[0])
        cell.finished, cell.named = gunicorn.finished, gunicorn.named
        for name in CALLS:
            if len(lines := losses(gunicorn.log, name)) > 1:
                cell.fault("again", f"{name}: {lines}")
        cell.seconds, cell.log = time.monotonic() - began, gunicorn.log
    cell.judge(row, event)
    return cell


def await_end(gunicorn, pid, cell, unhurt, report):
    """Wait until the worker has ended, and stop the master.

    ``unhurt``: the worker may live on, so do not wait longer than for its calls.
    """
    every = set(CALLS)
    gunicorn.until(
        lambda: not is_alive(pid) or (unhurt and gunicorn.finished == every),
        "the worker to end",
    )
    try:
        gunicorn.until(lambda: gunicorn.accounted == every, "a word on each", report)
        known = every
    except InVainError:
        known = gunicorn.accounted
    if not is_alive(pid):
        # gunicorn's gevent worker does not hear TERM while it boots.
        gunicorn.until(lambda: gunicorn.last_loaded != pid, "the next worker")
    gunicorn.stop()
    if late := gunicorn.accounted - known:
        cell.fault("late", f"named at the end only: {', '.join(sorted(late))}")
