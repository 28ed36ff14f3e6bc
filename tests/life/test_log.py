"""Where lines go under gunicorn, from the workers and from the master: every line is
where its reader looks, and once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from contextlib import closing

import pytest

from ..unit.observers.test_log import BLOCKS
from .gunicorns import INSTALL, configuration, running
from .test_hooks import skip_if_missing

# An app that sets up logging when it is asked to, or, with another line, at its import.
APP = """
import logging

from tests.life.app import ROOT, sleep, work
from tests.life.cell import FOR_EVER
from wsgi_defer import DeferMiddleware, defer

def set_up():
    logging.basicConfig(
        filename=ROOT / "app.log",
        format="%(process)d %(levelname)s %(name)s: %(message)s",
    )

def fail():
    raise ValueError

def view(environ, start_response):
    what, name = environ["PATH_INFO"][1:].split("/")
    if what == "fail":
        defer(fail).named(name)
    elif what == "stay":
        defer(work, name, sleep, FOR_EVER).named(name)
    else:
        set_up()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

app = DeferMiddleware(view)
"""
AT_ONCE = f"{APP}\nset_up()\n"
# gunicorn's own lines are in a file, and the tests read where it listens in another.
TO_FILE = """
import os

errorlog = os.environ["LIFE_ROOT"] + "/error.log"

def when_ready(server):
    with open(os.environ["LIFE_ROOT"] + "/output", "a") as output:
        print("Listening at:", server.LISTENERS[0], file=output)
"""
# A class that writes the lines of gunicorn's log its own way.
OWN_CLASS = """
import logging

from gunicorn.glogging import Logger

class Own(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logging.Formatter("own %(process)d %(message)s"))

logger_class = Own
"""
(JSON,) = [block for block in BLOCKS if "logconfig_dict" in block]


class Logged:
    """A gunicorn and the files that its lines go to."""

    def __init__(self, gunicorn):
        self.gunicorn = gunicorn

    def read(self, name):
        """What the file has, so far."""
        path = self.gunicorn.root / name
        return path.read_text() if path.exists() else ""

    def tells(self, name, line):
        """Wait until that file has one line as the pattern says. Returns the match."""
        pattern = re.compile(f"^{line}$", re.MULTILINE)
        self.gunicorn.until(lambda: pattern.search(self.read(name)), line)
        return pattern.search(self.read(name))

    def fail(self, call):
        """Have a worker log that such a call has failed; returns its process id."""
        self.gunicorn.request(f"/fail/{call}")
        return self.gunicorn.last_loaded

    def lose(self, call):
        """Kill the worker in such a call, so that the master logs it."""
        self.gunicorn.request(f"/stay/{call}")
        pid = self.gunicorn.begun(call)
        os.kill(pid, signal.SIGKILL)
        return pid

    def once(self, *calls):
        """Of each call, one line is in all the files together."""
        everything = "".join(map(self.read, ("output", "error.log", "app.log")))
        for call in calls:
            assert len(re.findall(rf"deferred call {call} \w+", everything)) == 1


def logging(hooks, app=APP, **settings):
    """A gunicorn that serves the app, with that text in its configuration."""
    version = settings.pop("version", None)
    conf = configuration(ours=True, hooks=hooks + INSTALL, **settings)
    return running(conf, version=version, app="logged:app", files={"logged.py": app})


def in_gunicorns_format(pid, level, text):
    """The pattern of such a line."""
    time = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\]"
    return rf"{time} \[{pid}\] \[{level}\] wsgi_defer: {text}"


def received(log):
    """What a socket has got as syslog, so far."""
    log.setblocking(False)
    lines = []
    while True:
        try:
            lines.append(log.recv(65536).decode())
        except BlockingIOError:
            return lines


@pytest.mark.ahead
@pytest.mark.parametrize("version", ["20.1.0", None], ids=["20", "27"])
def test_nothing_sets_up_logging(version):
    """Lines go to gunicorn's error log, in its format, and to what else that leads to;
    to the app's handlers from the moment when it sets up some."""
    skip_if_missing(version=version)
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as log:
        log.bind(("127.0.0.1", 0))
        log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        settings = {
            "capture_output": True,
            "syslog": True,
            "syslog_addr": f"udp://127.0.0.1:{log.getsockname()[1]}",
        }
        with logging(TO_FILE, version=version, **settings) as gunicorn:
            logged = Logged(gunicorn)
            pid = logged.fail("early")
            text = r"deferred call early failed; request \S+; from \S+logged.py:\d+"
            logged.tells("error.log", in_gunicorns_format(pid, "ERROR", text))
            gunicorn.request("/set-up/")
            logged.fail("late")
            text = r"deferred call late failed; .*"
            logged.tells("app.log", rf"{pid} ERROR wsgi_defer: {text}")
            assert logged.lose("killed") == pid
            # This process has never seen the app.
            master = gunicorn.master.pid
            text = rf"deferred call killed lost while it .*: worker {pid} ended;.*"
            logged.tells("error.log", in_gunicorns_format(master, "ERROR", text))
            logged.once("early", "late", "killed")
            gunicorn.stop()  # a line is in the file first, and then sent
        lines = [line for line in received(log) if "deferred call " in line]
    assert len(lines) == 2
    assert f"[{pid}] wsgi_defer: deferred call early failed" in lines[0]
    assert f"[{master}] wsgi_defer: deferred call killed lost" in lines[1]


@pytest.mark.ahead
def test_the_app_sets_up_logging_and_is_preloaded():
    """Its handlers get the lines of the master, too."""
    with logging(TO_FILE, AT_ONCE, preload_app=True) as gunicorn:
        logged = Logged(gunicorn)
        logged.fail("mail")
        logged.tells("app.log", r"\d+ ERROR wsgi_defer: deferred call mail failed; .*")
        pid = logged.lose("killed")
        master = gunicorn.master.pid
        text = rf"deferred call killed lost .*: worker {pid} ended;.*"
        logged.tells("app.log", rf"{master} ERROR wsgi_defer: {text}")
        logged.once("mail", "killed")


@pytest.mark.ahead
def test_the_app_sets_up_logging_and_gunicorn_has_a_class_of_its_own():
    """Without preloading, the master does not know the app's handlers."""
    with logging(OWN_CLASS, AT_ONCE) as gunicorn:
        logged = Logged(gunicorn)
        pid = logged.fail("mail")
        line = rf"{pid} ERROR wsgi_defer: deferred call mail failed; .*"
        logged.tells("app.log", line)
        assert logged.lose("killed") == pid
        text = rf"deferred call killed lost .*: worker {pid} ended;.*"
        logged.tells("output", rf"own {gunicorn.master.pid} wsgi_defer: {text}")
        logged.once("mail", "killed")


@pytest.mark.ahead
def test_the_configuration_of_the_page():
    """All lines are JSON with fields: gunicorn's own, and ours of both processes."""
    with logging(JSON) as gunicorn:
        logged = Logged(gunicorn)
        pid = logged.fail("mail")
        failed = json.loads(logged.tells("output", ".*call mail failed.*")[0])
        assert logged.lose("killed") == pid
        lost = json.loads(logged.tells("output", ".*call killed lost.*")[0])
        logged.once("mail", "killed")
        gunicorn.stop()
        lines = [json.loads(line) for line in gunicorn.log.splitlines()]
    assert "ValueError" in failed["exc_info"]
    assert failed["process"] == failed["wsgi_defer_worker"] == pid
    assert lost["process"] == gunicorn.master.pid
    assert lost["wsgi_defer_worker"] == pid
    assert lost["wsgi_defer_why"] == f"worker {pid} ended"
    for line, event in (failed, "failed"), (lost, "lost"):
        assert line["levelname"] == "ERROR"
        assert line["name"] == "wsgi_defer"
        assert line["wsgi_defer_event"] == event
    names = {"gunicorn.error", "gunicorn.access", "wsgi_defer"}
    assert {line["name"] for line in lines} == names
