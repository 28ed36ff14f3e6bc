"""The doctor's app: who is let in, and what it answers."""

from __future__ import annotations

import json
import os

import pytest

from wsgi_defer import DeferMiddleware
from wsgi_defer.doctor import _notes, doctor_app

from ...helpers.client import get, make_environ

TOKEN = "a-token-of-the-tests-0123456789"
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def directory(monkeypatch, tmp_path):
    """Its notes are in a directory of the test's own."""
    monkeypatch.setattr(_notes.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def ask(path, *, app=None, token=TOKEN, method="GET", query=f"key={KEY}&seconds=0"):
    """One request; the answer."""
    app = app or DeferMiddleware(doctor_app(token=TOKEN))
    environ = make_environ(
        PATH_INFO=f"/somewhere/{path}", QUERY_STRING=query, REQUEST_METHOD=method
    )
    if token is not None:
        environ["HTTP_X_WSGI_DEFER_TOKEN"] = token
    return get(app, environ=environ)


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], f"{TOKEN}x", "\xe4\udc80"])
def test_nobody_gets_in_without_the_token(token):
    """Nothing is told to them, and nothing is deferred."""
    reply = ask("length", token=token)
    assert reply.status == "403 Forbidden"
    assert "X-Wsgi-Defer-Doctor" not in dict(reply.headers)
    assert _notes.read(KEY) == []


@pytest.mark.parametrize(
    "token", ["", "short", None, "x" * 15, "with space" * 2, "ä" * 20]
)
def test_the_app_is_not_made_without_a_token(token):
    """That would let everybody in."""
    with pytest.raises(ValueError, match="at least 16"):
        doctor_app(token=token)


@pytest.mark.parametrize(
    ("shape", "status", "length"),
    [("length", "200 OK", 5), ("stream", "200 OK", 5), ("204", "204 No Content", 0),
     ("file", "200 OK", None), ("big", "200 OK", 20_000_000)],
)  # fmt: skip
def test_the_shapes(shape, status, length):
    """Each has a call that notes what became of it."""
    reply = ask(shape)
    assert reply.status == status
    assert length is None or len(reply.body) == length
    assert json.loads(dict(reply.headers)["X-Wsgi-Defer-Doctor"])["scope"]
    notes = json.loads(ask("report").body)
    assert [note["event"] for note in notes] == ["outcome", "begun", "ended"]
    assert notes[0]["delivered"]
    assert ask("length", method="HEAD").body == b""


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [("length", "key=../../etc&seconds=0", "400"), ("report", "", "400"),
     ("length", f"key={KEY}&seconds=x", "400"),
     ("other", f"key={KEY}&seconds=0", "404"),
     ("stop", f"key={KEY}&seconds=0", "409")],
)  # fmt: skip
def test_what_it_refuses(path, query, status):
    """No path of a file, nothing unknown, and no signal."""
    assert ask(path, query=query).status.startswith(status)


def test_without_the_middleware():
    """It answers, and says so."""
    reply = ask("length", app=doctor_app(token=TOKEN))
    facts = json.loads(dict(reply.headers)["X-Wsgi-Defer-Doctor"])
    assert (reply.body, facts["scope"], facts["inline"]) == (b"hello", False, None)
    assert _notes.read(KEY) == []


def test_a_directory_that_others_can_read(directory):
    """Nothing is written there."""
    _notes.write(KEY, "begun")
    [made] = directory.iterdir()
    made.chmod(0o755)
    with pytest.raises(PermissionError, match="remove it"):
        _notes.read(KEY)


def test_old_notes_are_removed(monkeypatch, directory):
    """The last ones are kept."""
    monkeypatch.setattr(_notes, "KEPT", 2)
    keys = [f"{number:016x}" for number in range(4)]
    for age, key in enumerate(reversed(keys)):
        _notes.write(key, "begun")
        [made] = directory.iterdir()
        os.utime(made / key, (100 - age, 100 - age))
    ask("length")
    left = [key for key in keys if _notes.read(key)]
    assert left == keys[2:]
    assert len(_notes.read(KEY)) == 3
