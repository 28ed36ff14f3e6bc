"""How each server is started, on a free port of the loopback, and stopped by its id."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import trustme

HOME = Path(__file__).parent.parent.parent
GUNICORNS = HOME / ".gunicorns"  # older releases, see the Makefile


@dataclass
class Server:
    """A running server and the files that its app shares with the tests."""

    root: Path
    process: subprocess.Popen | None = None
    address: tuple | str = ""
    tls: ssl.SSLContext | None = None
    sendfile: bool = False
    output: Path = field(init=False)

    def __post_init__(self):
        self.output = self.root / "output"

    def start(self, command, announcement, env=None):
        """Run it until its output says where it listens."""
        env = {**os.environ, "WIRE_ROOT": str(self.root), "PYTHONUNBUFFERED": "1",
               **(env or {})}  # fmt: skip
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=HOME, env=env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if found := re.search(announcement, self.output.read_text()):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{command} did not start:\n{self.output.read_text()}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def gunicorn(server, *options, version=None, app="tests.wire.app:app", bind=None):
    """gunicorn's sync worker, of the installed version or of another one."""
    path = str(HOME)
    if version is not None:
        path = f"{GUNICORNS / version}{os.pathsep}{path}"
    command = [sys.executable, "-m", "gunicorn", "--bind", bind or "127.0.0.1:0",
               "--workers", "2", *options, app]  # fmt: skip
    # The control socket of newer releases has one path for all on a machine.
    if version is None:
        command[3:3] = ["--no-control-socket"]
    found = server.start(command, r"Listening at: (\S+)", {"PYTHONPATH": path})
    where = found.group(1)
    if where.startswith("unix:"):
        server.address = where.removeprefix("unix:")
    else:
        host, _, port = where.rpartition("/")[2].rpartition(":")
        server.address = (host, int(port))


def werkzeug(server, *, threaded):
    """werkzeug's development server, as `flask run` starts it."""
    code = (
        "from werkzeug.serving import run_simple; from tests.wire.app import app; "
        f"run_simple('127.0.0.1', 0, app, threaded={threaded})"
    )
    found = server.start(
        [sys.executable, "-c", code], r"http://127\.0\.0\.1:(\d+)", {"PYTHONPATH": "."}
    )
    server.address = ("127.0.0.1", int(found.group(1)))


def make_tls(root):
    """A certificate of its own for the server, and a context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(root / "key.pem")
    with (root / "cert.pem").open("wb") as file:
        for pem in certificate.cert_chain_pems:
            file.write(pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context, ["--keyfile", f"{root}/key.pem", "--certfile", f"{root}/cert.pem"]


def start_tls(server):
    server.tls, options = make_tls(server.root)
    gunicorn(server, *options)


def start_unix(server):
    # Not in pytest's directory: the path of a socket has 107 bytes at most.
    directory = tempfile.mkdtemp()
    gunicorn(server, bind=f"unix:{directory}/socket")


def start_sync(server, version=None):
    server.sendfile = True
    gunicorn(server, version=version)


SERVERS = {
    "gunicorn-sync": start_sync,
    "gunicorn-sync-tls": start_tls,
    "gunicorn-sync-unix": start_unix,
    "gunicorn-23-sync": lambda server: start_sync(server, "23.0.0"),
    "gunicorn-20-sync": lambda server: start_sync(server, "20.1.0"),
    "werkzeug": lambda server: werkzeug(server, threaded=False),
    "werkzeug-threaded": lambda server: werkzeug(server, threaded=True),
}
NEEDS = {
    "gunicorn-23-sync": GUNICORNS / "23.0.0",
    "gunicorn-20-sync": GUNICORNS / "20.1.0",
}
