"""A server that is started by a command, and stopped by its process id."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .._runtime.clock import monotonic
from ._app import FILE, ROOT

START = 60.0  # seconds that a server may take
TRIES = 3  # ports that are tried: somebody may take one just before the server does
PORTS = range(20_000, 32_000)  # below those that kernels give away
HOST = "127.0.0.1"
PACKAGES = Path(__file__).parents[2]  # where wsgi_defer is


class StartError(Exception):
    """The server did not start; the message has the end of what it said."""


class Server:
    """A running server, and the directory that its app shares with the client.

    A context manager. ``command`` may contain ``{bind}``, ``{host}``, ``{port}`` and
    ``{app}``. Raises ``StartError``, and ``ValueError`` if the command is not one.
    """

    def __init__(self, command: str, app: str) -> None:
        self.command = command
        self.app = app
        self.address = (HOST, 0)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.root = Path(tempfile.mkdtemp(prefix="wsgi-lint-"))
        if os.getuid() == 0:  # the server's processes may be another user's
            self.root.chmod(0o777)
        (self.root / "file").write_bytes(FILE)
        try:
            for attempt in range(1, TRIES + 1):
                try:
                    self._start()
                    break
                except StartError:
                    self._stop()
                    if attempt == TRIES:
                        raise
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def said(self) -> str:
        """What it has written, on both streams."""
        return (self.root / "output").read_text(errors="replace")

    def _start(self) -> None:
        port = free_port()
        self.address = (HOST, port)
        words = {"bind": f"{HOST}:{port}", "host": HOST, "port": port, "app": self.app}
        try:
            command = [word.format(**words) for word in shlex.split(self.command)]
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"the command has something in braces that is not {{bind}}, {{host}}, "
                f"{{port}} or {{app}}, or an open quote: {error}"
            ) from None
        paths = [str(PACKAGES), os.environ.get("PYTHONPATH", "")]
        environ = {
            **os.environ,
            ROOT: str(self.root),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # A server beside this Python is meant before another one.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with (self.root / "output").open("wb") as output:
            try:
                self.process = subprocess.Popen(  # noqa: S603  # the user's command
                    command, env=environ, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=output, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise StartError(f"{command[0]} cannot be run: {error}") from None
        deadline = monotonic() + START
        while self.process.poll() is None and monotonic() < deadline:
            try:
                socket.create_connection(self.address, 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        lines = self.said().splitlines()[-20:]
        raise StartError("\n".join(["the server does not listen; it said:", *lines]))

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        # uWSGI restarts at TERM, unless it is told otherwise.
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                process.send_signal(number)
                process.wait(4)
                break
            except subprocess.TimeoutExpired:
                pass
        try:
            # What is left are its workers: the session is its own.
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def free_port() -> int:
    """A port that nobody had a moment ago."""
    while True:
        port = random.choice(PORTS)  # noqa: S311  # no secret
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
        return port
