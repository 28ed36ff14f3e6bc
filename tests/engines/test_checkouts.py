"""Calls leave no connection checked out, of whichever pool."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES, until
from ..wire.servers import free_port
from .services import Postgres, Redis

REQUESTS = int(os.environ.get("REQUESTS", "100"))  # 1000 show the same
WORKERS = {
    "sync": ["--worker-class", "wsgi_defer.gunicorn.SyncWorker"],
    "thread": ["--worker-class", "wsgi_defer.gunicorn.ThreadWorker", "--threads", "4"],
    "background": ["--worker-class", "gthread", "--threads", "4"],
}
KINDS = ("flask", "scoped", "plain", "psycopg")


@contextmanager
def served(options, root, **env):
    """The port of gunicorn."""
    port = free_port()
    with (root / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "tests.engines.checkouts:app", *options,
             "--bind", f"127.0.0.1:{port}"],
            cwd=root, env={**os.environ, "PYTHONPATH": HOME, **env},
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        until(lambda: "Listening at" in (root / "output").read_text(), "gunicorn",
              OF_PROCESSES)  # fmt: skip
        yield port
    finally:
        process.terminate()
        process.wait(OF_PROCESSES)


def get(port, path):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=OF_PROCESSES)
    try:
        client.request("GET", path)
        reply = client.getresponse()
        assert reply.status == 200
        return reply.read()
    finally:
        client.close()


@pytest.mark.parametrize("worker", WORKERS)
def test_many_requests(servers, tmp_path, worker):
    """Also of calls that fail. What a call leaves in a session, its end takes back."""
    psycopg = pytest.importorskip("psycopg")
    for needed in ("psycopg_pool", "redis", "flask_sqlalchemy"):
        pytest.importorskip(needed)
    postgres, redis = servers.get(Postgres), servers.get(Redis)
    url = postgres.database(f"checkouts_{worker}")
    env = {"POSTGRES": url, "REDIS": redis.url.replace("/0", "/7")}
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("create table written (kind text)")

        def written():
            query = "select kind, count(*) from written group by kind"
            return dict(database.execute(query).fetchall())

        with served(WORKERS[worker], tmp_path, **env) as port:
            with ThreadPoolExecutor(4) as clients:
                list(clients.map(lambda _: get(port, "/"), range(REQUESTS)))
            until(lambda: written() == dict.fromkeys(KINDS, REQUESTS),
                  lambda: f"{written()} {(tmp_path / 'output').read_text()[-3000:]}",
                  OF_PROCESSES)  # fmt: skip
            until(lambda: not any(json.loads(get(port, "/out")).values()),
                  lambda: get(port, "/out").decode(), OF_PROCESSES)  # fmt: skip
    assert (tmp_path / "output").read_text().count("LookupError") >= REQUESTS
