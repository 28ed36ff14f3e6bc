"""What real clients see while the call waits: curl, http.client and requests."""

from __future__ import annotations

import http.client
import itertools
import shutil
import subprocess

import pytest
import requests

from . import servers
from .cell import SHORT
from .client import PATIENCE
from .faults import expected

CLIENTS = ["curl --http1.0", "curl", "http.client", "requests"]
SETUPS = ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gthread-ours", "werkzeug",
          "nginx-1.0-sync", "nginx-1.1-gthread-ours", "uwsgi-http", "waitress",
          "gunicorn-sync-tls", "gunicorn-gthread-h2"]  # fmt: skip
SHAPES = ["list_length", "list", "generator", "204", "file"]
NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=SETUPS)
def server(request):
    """A few set-ups, each started once."""
    with servers.running_or_skipped(request.param) as server:
        yield server


def fetch(client, server, target, patience):
    """The body, or None if it was not there in time."""
    host, port = server.address
    url = f"{'https' if server.tls else 'http'}://{host}:{port}{target}"
    authority = str(server.root / "ca.pem")
    if client.startswith("curl"):
        command = [*client.split(), "--silent", "--show-error", "--fail",
                   "--max-time", str(patience), "--cacert", authority, url]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode in (0, 28), done.stderr  # 28: not in time
        return None if done.returncode else done.stdout
    try:
        if client == "requests":
            verify = authority if server.tls else True
            return requests.get(url, timeout=patience, verify=verify).content
        if server.tls:
            connection = http.client.HTTPSConnection(
                host, port, timeout=patience, context=server.tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=patience)
        try:
            connection.request("GET", target)
            return connection.getresponse().read()
        finally:
            connection.close()
    except (TimeoutError, requests.exceptions.RequestException) as error:
        if "timed out" not in str(error).lower():
            raise
        return None


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_client_has_it(server, client, shape):
    """The whole body while the call waits, or the table says that it is late."""
    if client.startswith("curl") and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    protocol = "1.0" if "1.0" in client else "keep"
    if "h2" in server.name:
        if client != "curl":
            pytest.skip("curl is the one that speaks HTTP/2")
        protocol, client = "h2", "curl --http2"
    late = "late" in expected(server.name, shape, protocol)[0].split()
    key = f"client-{next(NUMBERS)}"
    try:
        body = fetch(client, server, f"/{shape}?key={key}", SHORT if late else PATIENCE)
        log = server.root / f"{key}.log"
        assert not log.exists() or "done" not in log.read_text()
    finally:
        (server.root / f"{key}.gate").touch()
    bodies = {"204": b"", "file": servers.FILE}
    assert body == (None if late else bodies.get(shape, b"hello"))
