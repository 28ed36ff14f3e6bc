"""The status page of a real gunicorn, and the same in a terminal."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from urllib.parse import urlencode

import pytest

from wsgi_defer.__main__ import main
from wsgi_defer.status import _top

from ..helpers import status_app
from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES, until
from ..unit.status.fakes import forms


@pytest.fixture(scope="module")
def server():
    with status_app.serving() as server:
        workers = status_app.WORKERS
        until(lambda: len(figures(server)["workers"]) == workers, "all workers")
        yield server


@pytest.fixture
def url(server):
    return f"http://{server.url}/status"


class Reply:
    """A response as ``forms()`` and these tests want it."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.worker = response.headers.get("X-Worker")


def ask(server, target, body=None, **headers):
    connection = http.client.HTTPConnection(*server.address, timeout=OF_PROCESSES)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    method = "GET" if body is None else "POST"
    connection.request(method, target, body, {"Connection": "close", **headers})
    try:
        return Reply(connection.getresponse())
    finally:
        connection.close()


def figures(server):
    return json.loads(ask(server, "/status?format=json").body)


def test_what_workers_do_is_seen_from_each_of_them(server):
    """A call runs, and waits in its worker; then it has finished."""
    ask(server, "/wait?seen")
    until(lambda: figures(server)["totals"]["running"], "a call that runs")
    told = figures(server)
    assert (told["whole"], told["name"]) == (True, "shop")
    assert len(told["workers"]) == status_app.WORKERS
    [busy] = [each for each in told["workers"] if each["call"]]
    assert busy["state"] == "after response"
    assert busy["call"].endswith("status_app.wait")
    (server.root / "seen").touch()
    until(lambda: figures(server)["totals"]["finished"], "the call to finish")
    ask(server, "/fail")
    until(lambda: figures(server)["failures"], "a failure")
    [failure] = figures(server)["failures"]
    assert failure["error"] == "OSError"
    assert "alert" not in json.dumps(figures(server))  # nor what the error says


def test_it_answers_while_the_others_hang(server):
    """As long as one worker is left."""
    hanging = []
    for _ in range(status_app.WORKERS - 1):
        connection = socket.create_connection(server.address)
        connection.sendall(b"GET /hang?released HTTP/1.1\r\nHost: x\r\n\r\n")
        hanging.append(connection)
    everybody = status_app.WORKERS  # the one that answers, too
    until(lambda: figures(server)["totals"]["request"] == everybody, "all to be busy")
    assert b"In a request" in ask(server, "/status").body
    (server.root / "released").touch()
    for connection in hanging:
        connection.recv(1000)
        connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X_Real_IP": "127.0.0.1"},
        {"Host": "shop.example"},
    ],
)
def test_strangers(server, headers):
    """Somebody behind a proxy on this machine."""
    assert ask(server, "/status").status == 200
    assert ask(server, "/status", **headers).status == 403


def test_a_form_of_one_worker_is_known_to_the_others(server):
    """They have the master's secret; and an action is named in the log."""
    states = {f"j-{number}": "failed" for number in range(30)}
    (server.root / "jobs.json").write_text(json.dumps(states))
    path = "/status?refresh=no"

    def form_of_a_failed_job():
        reply = ask(server, path)
        found = [each for each in forms(reply) if each["action"] == "retry"]
        return found and (reply.worker, found[0])

    def retried_by_another():
        # A worker may show the board of a moment ago.
        worker, form = until(form_of_a_failed_job, "a form")
        reply = ask(server, path, urlencode(form))
        assert reply.status in (303, 409), reply.body
        return reply.status == 303 and reply.worker != worker and form

    form = until(retried_by_another, "another worker to answer", OF_PROCESSES)
    line = f"asks for retry of job {form['job']}"
    until(lambda: line in server.output.read_text(), line)
    forged = {**form, "token": "1." + "0" * 64}
    assert ask(server, path, urlencode(forged)).status == 403
    assert ask(server, path, urlencode(form), Sec_Fetch_Site="cross-site").status == 403


def test_top_over_tcp_and_over_a_unix_socket(server, url, capsys):
    """The same figures."""
    for address in (url, f"unix:{server.root}/socket:/status"):
        assert main(["top", address]) == 0
        assert f"workers {status_app.WORKERS}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://{0.url}/private", "refuses to answer (403)"),
        ("http://{0.url}/status/nothing", "answers 404"),
        ("http://{0.url}/", "is not a status page of wsgi_defer"),
        ("https://{0.url}/status", "is the address right?"),
        ("unix:{0.root}/nothing:/status", "No such file"),
        ("unix:{0.root}/conf.py:/status", "refused"),
    ],
)
def test_top_says_what_is_wrong(server, address, said, capsys):
    assert main(["top", address.format(server)]) == 1
    assert said in capsys.readouterr().err


def test_top_in_a_terminal(url):
    """It is drawn anew until Ctrl-C, and the terminal is as before."""
    outer, inner = pty.openpty()
    top = subprocess.Popen(
        [sys.executable, "-m", "wsgi_defer", "top", url], stdin=inner, stdout=inner,
        stderr=inner, cwd=HOME, env={**os.environ, "PYTHONPATH": HOME},
    )  # fmt: skip
    os.close(inner)
    out = b""

    def read():
        nonlocal out
        try:
            data = os.read(outer, 65536)
        except OSError:  # Linux says so at the end of a terminal
            data = b""
        out += data
        return data

    try:
        while out.count(_top.HOME.encode()) < 2:
            assert read(), out
        top.send_signal(signal.SIGINT)
        while read():
            pass
        assert top.wait(OF_PROCESSES) == 0
    finally:
        top.kill()
        top.wait()
        os.close(outer)
    assert out.startswith(_top.ENTER.encode())
    assert out.endswith(_top.LEAVE.encode())
    assert f"workers {status_app.WORKERS}: ".encode() in out
