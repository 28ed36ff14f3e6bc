"""A gunicorn that serves ``tests.life.app``, and what can be seen of its calls."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager

from ..helpers.waiting import OF_PROCESSES, until, whole_lines
from ..wire import servers
from ..wire.client import Connection, Message
from . import CALLS

PATIENCE = OF_PROCESSES
# To start one is work for the processor, and most of what these tests do is not.
STARTS = threading.BoundedSemaphore(3)

INSTALL = "from wsgi_defer.gunicorn import install\ninstall(globals())\n"


def configuration(worker="sync", *, ours=False, hooks=INSTALL, **settings):
    """The text of a gunicorn.conf.py: those settings, and the hooks as its end."""
    settings = {
        "bind": "127.0.0.1:0",
        "worker_class": servers.OURS[worker] if ours else worker,
        "threads": 2 if worker == "gthread" else 1,
        "keepalive": 5,
        **settings,
    }
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    return "\n".join([*lines, hooks])


class Gunicorn:
    """One gunicorn, by its ``Server``: its notes, its log, and its end."""

    def __init__(self, server, listeners):
        self.server = server
        self.listeners = listeners

    @property
    def root(self):
        """The directory that it shares with us."""
        return self.server.root

    @property
    def master(self):
        """The process that we have started."""
        return self.server.processes[0]

    @property
    def log(self):
        """What the master and the workers have written, so far."""
        return self.server.output.read_text(errors="replace")

    def all_notes(self, event):
        """Each time that this happened to a call: its name, process id and time."""
        path = self.root / "notes"
        lines = whole_lines(path.read_text()) if path.exists() else []
        return [
            (name, int(pid), float(at))
            for happened, name, pid, at in map(str.split, lines)
            if happened == event
        ]

    def notes(self, event):
        """The calls that this happened to: a dict of process id and time."""
        return {name: (pid, at) for name, pid, at in self.all_notes(event)}

    @property
    def last_loaded(self):
        """The id of the process that was the last to load the app."""
        return self.notes("loaded")["app"][0]

    @property
    def finished(self):
        """The calls that have finished."""
        return set(self.notes("finished"))

    @property
    def named(self):
        """The calls that the log says are lost."""
        return lost_in(self.log)

    @property
    def accounted(self):
        """The calls of which it is known what became of them."""
        return self.finished | self.named

    def begun(self, name):
        """Wait until that call runs; returns the id of its worker."""
        self.until(lambda: name in self.notes("begun"), f"{name} to begin")
        return self.notes("begun")[name][0]

    def until(self, condition, what, patience=PATIENCE):
        """Wait until that is true."""
        until(condition, lambda: f"{what}\n{self.log}", patience)

    def send(self, number):
        """Send a signal to the master."""
        self.master.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Send a signal to the master, and wait until it has ended."""
        self.send(number)
        self.master.wait(PATIENCE)

    def request(self, target, listener=0):
        """Send one request, and wait for its response: a ``Client``."""
        self.server.listens_at(self.listeners[listener])
        return Client(self.server, target)


def lost_in(log, names=CALLS):
    """Those of the names that stand in a line on lost calls."""
    return {name for name in names if losses(log, name)}


def losses(log, name):
    """The lines that say that the call of that name is lost."""
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
    return [line for line in log.splitlines() if is_loss(line) and word.search(line)]


def is_loss(line):
    """Whether that line of a log is ours, and tells of lost calls."""
    return "deferred call" in line and re.search(r"\blost\b", line) is not None


class Client:
    """It reads its response, and goes on reading until the stream ends."""

    def __init__(self, server, target):
        self.connection = Connection(server, timeout=PATIENCE)
        self.message = Message("GET")
        self.connection.send("GET", target)
        self.connection.read(self.message, time.monotonic() + PATIENCE)
        if not self.message.complete:
            raise ConnectionError(f"cut response: {bytes(self.message.data)!r}")
        # At once: gunicorn 26+ waits for us to close the connection.
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()

    def go_on(self):
        """Read to the end of the stream, and close."""
        deadline = time.monotonic() + 2 * PATIENCE
        self.connection.read(self.message, deadline, to_eof=True)
        self.connection.socket.close()

    @property
    def response(self):
        """The body of the response."""
        return bytes(self.message.data[self.message.start : self.message.end])

    def surplus(self):
        """What came after the response, when the stream has ended."""
        self.thread.join()
        if not self.message.eof:
            raise TimeoutError("the connection was never closed")
        return bytes(self.message.data[self.message.end :])


@contextmanager
def running(conf="", *options, version=None, app="tests.life.app:app", files=()):
    """A gunicorn with that text as its gunicorn.conf.py, or with none.

    ``version``: one of the releases of ``.gunicorns``. ``files``: the code of modules
    that the app may import, by their names.
    """
    server = servers.Server()
    try:
        for name, code in dict(files).items():
            (server.root / name).write_text(code)
        if conf:
            (server.root / "conf.py").write_text(conf)
            options = ("--config", str(server.root / "conf.py"), *options)
        path = [str(servers.HOME), str(server.root)]
        if version is not None:
            path.insert(0, str(servers.GUNICORNS / version))
        if version is None or int(version.split(".")[0]) >= 25:
            # The control socket of newer releases has one path for all on a machine.
            options += ("--no-control-socket",)
        with STARTS:
            found = server.run(
                # -W: gunicorn 20.1 imports pkg_resources
                [sys.executable, "-W", "ignore", "-m", "gunicorn", *options, app],
                r"Listening at: (\S+)\s",
                {"PYTHONPATH": os.pathsep.join(path), "LIFE_ROOT": str(server.root)},
            )  # fmt: skip
            gunicorn = Gunicorn(server, found.group(1).split(","))
            server.listens_at(gunicorn.listeners[0])
            gunicorn.until(lambda: gunicorn.notes("loaded"), "the app to be loaded")
        yield gunicorn
    finally:
        server.stop()
