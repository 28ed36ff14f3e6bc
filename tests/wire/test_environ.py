"""What a call sees of its request, when the server is done with that."""

from __future__ import annotations

import http.client
import json
from contextlib import closing

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from . import servers
from .client import PATIENCE

SETUPS = [
    "gunicorn-sync", "gunicorn-sync-ours", "gunicorn-20-sync", "gunicorn-gthread",
    "gunicorn-gthread-ours", "gunicorn-23-gthread", "gunicorn-gevent",
    "gunicorn-gevent-ours", "uwsgi-http", "uwsgi-http11", "uwsgi-threads",
    "uwsgi-mount", "uwsgi-router-keepalive", "werkzeug", "werkzeug-threaded", "wsgiref",
    "waitress", "cheroot", "gevent-pywsgi", "bjoern", "granian", "a2wsgi-uvicorn",
    "mod_wsgi-daemon", "mod_wsgi-embedded",
]  # fmt: skip
WITHOUT_FLASK = ("mod_wsgi-daemon", "mod_wsgi-embedded")  # they run Debian's Python
KEEPING = [  # who keeps the connection of a request whose body was not read
    "gunicorn-gthread", "gunicorn-gthread-ours", "gunicorn-23-gthread",
    "gunicorn-gevent", "gunicorn-gevent-ours", "gevent-pywsgi", "mod_wsgi-daemon",
]  # fmt: skip


def serve(name, app):
    """The set-up of that name with that app."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WIRE_OUTSIDE", app)
        with servers.running_or_skipped(name) as server:
            yield server


@pytest.fixture(scope="module", params=SETUPS)
def plain(request):
    """A server with an app that keeps its environ, and the input."""
    yield from serve(request.param, "looking")


@pytest.fixture(scope="module", params=[x for x in SETUPS if x not in WITHOUT_FLASK])
def flask(request):
    """A server with a Flask app."""
    yield from serve(request.param, "flask")


def ask(connection, key, body=None, **headers):
    """One request, and the body of its answer."""
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request("GET" if body is None else "POST", f"/{key}", body, headers)
    response = connection.getresponse()
    assert response.status == 200
    return response.read()


def looked(server, key, calls=1):
    """What each call of that request has seen."""
    path = server.root / f"{key}.log"
    until(lambda: path.exists() and path.read_text().count("\n") == calls,
          server.output.read_text, OF_PROCESSES)  # fmt: skip
    return [json.loads(line) for line in path.read_text().splitlines()]


def connect(server):
    """A connection that is closed after the block."""
    return closing(http.client.HTTPConnection(*server.address, timeout=PATIENCE))


def ask_once(server, *args, **headers):
    """The same, on a connection of its own."""
    with connect(server) as connection:
        return ask(connection, *args, **headers)


def test_the_environ_of_a_call(plain):
    """It is there, and is its own; nothing of it is left to the next request."""
    for number in range(4):
        key = f"get{number}"
        ask_once(plain, key, **({"X-Stale": "1"} if number == 0 else {}))
        [seen] = looked(plain, key)
        assert (seen["scheme"], seen["path"]) == ("http", f"/{key}")
        assert seen["stale"] == (None if number else "1")
        assert seen["read"]["own"] == "b''"  # there was no body
        until(lambda key=key: f"a line of {key}" in plain.output.read_text(),
              patience=OF_PROCESSES)  # fmt: skip


@pytest.mark.parametrize("key", ["unread", "part"])
def test_the_body_is_the_views(plain, key):
    """What the view has not read, no call can read."""
    assert ask_once(plain, key, b"a=1&b=2") == b"a=" * (key == "part")
    [seen] = looked(plain, key)
    assert "read it in the view" in seen["read"]["own"]
    if plain.name.startswith(("gunicorn", "uwsgi")):  # also what the app kept
        assert "read it in the view" in seen["read"]["kept"]


def test_flask(flask):
    """Each of several calls has its request."""
    for number in range(3):
        key = f"get{number}"
        ask_once(flask, key, **({"X-Stale": "1"} if number == 0 else {}))
        for seen in looked(flask, key, 5):
            assert seen["url"].endswith(f"/{key}")
            assert seen["stale"] == (None if number else "1")
        for call in range(5):
            until(lambda key=key, call=call: f"a line of {key} {call}"
                  in flask.output.read_text(), patience=OF_PROCESSES)  # fmt: skip


@pytest.mark.parametrize("key", ["form", "unread", "part"])
def test_the_form_in_flask(flask, key):
    """What the view has read is there; else the call is told what to do."""
    ask_once(flask, key, b"a=1&b=2")
    for seen in looked(flask, key, 5):
        if key == "form":
            assert seen["form"] == {"a": "1", "b": "2"}
        else:
            assert "read it in the view" in seen["form"]


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("app", ["looking", "flask"])
def test_the_next_request_on_the_connection(name, app):
    """It is whole, though a call wanted to read the body of the one before."""
    if app == "flask" and name in WITHOUT_FLASK:
        pytest.skip("it runs Debian's Python")
    for server in serve(name, app):
        with connect(server) as connection:
            for number in range(5):
                ask(connection, f"unread{number}", b"a=1&b=" + b"x" * 50_000)
                assert connection.sock is not None  # kept
        for number in range(5):
            looked(server, f"unread{number}", 1 if app == "looking" else 5)
