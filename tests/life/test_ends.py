"""How other servers end in an orderly way, and what becomes of calls then.

A server that a signal just kills, as Python itself is by TERM, loses what waits, and
nobody is left to say so.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from contextlib import contextmanager

import pytest

from ..wire import servers
from . import BODY, CALLS
from .cell import FOR_EVER
from .gunicorns import PATIENCE, Gunicorn

APP = "from tests.life.app import elsewhere as app; "
PROGRAMS = {
    "waitress": "import waitress; waitress.serve(app, listen='127.0.0.1:{port}')",
    "werkzeug": "from werkzeug.serving import run_simple; "
    "run_simple('127.0.0.1', {port}, app)",
    "wsgiref": "from wsgiref.simple_server import make_server; "
    "make_server('127.0.0.1', {port}, app).serve_forever()",
    "cheroot": "from cheroot.wsgi import Server; "
    "Server(('127.0.0.1', {port}), app).safe_start()",
}
# Its calls finish; or it is killed by the signal, as it does not handle it.
FINISHES, KILLED = set(CALLS), set()
ENDS = {
    ("granian", "TERM"): FINISHES,
    ("granian", "INT"): FINISHES,
    **{(name, "INT"): FINISHES for name in PROGRAMS},
    **{(name, "TERM"): KILLED for name in PROGRAMS},
}


def command(name, port):
    """That of a server with the app whose calls run on the background thread."""
    if name in PROGRAMS:
        return [sys.executable, "-c", APP + PROGRAMS[name].format(port=port)]
    return [
        sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port),
        "tests.life.app:elsewhere",
    ]  # fmt: skip


@contextmanager
def served(name):
    """The server of that name, which is no gunicorn, but is looked at as one."""
    server = servers.Server()
    port = servers.free_port()
    server.address = ("127.0.0.1", port)
    try:
        server.run(command(name, port), env={"LIFE_ROOT": str(server.root)})
        yield Gunicorn(server, [f"127.0.0.1:{port}"])
    finally:
        server.stop()


@pytest.mark.parametrize(("name", "order"), ENDS)
def test_an_orderly_end(name, order):
    """What waits is finished first, where the server lets its process exit."""
    if name != "wsgiref" and not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed")
    seconds = 0.5 if ENDS[name, order] else FOR_EVER
    with served(name) as server:
        client = server.request(f"/calls?seconds={seconds}")
        assert client.response == BODY
        server.begun(CALLS[0])
        if name == "wsgiref":  # an INT that comes before that is swallowed there
            server.until(lambda: client.message.eof, "the connection to end")
        server.send(getattr(signal, f"SIG{order}"))
        server.master.wait(PATIENCE)
        assert server.finished == ENDS[name, order]
        assert server.named == set()
