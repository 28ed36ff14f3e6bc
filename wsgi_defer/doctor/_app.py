"""The app that the doctor asks: a few shapes of responses, each with a call."""

from __future__ import annotations

import hmac
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .._calls.defer import defer
from .._calls.outcome import Outcome
from .._calls.scope import get_current
from .._runtime import host
from .._runtime.clock import monotonic
from .._servers.handover import handed_over
from . import _notes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TOKEN_HEADER = "X-Wsgi-Defer-Token"  # noqa: S105  # its name
FACTS_HEADER = "X-Wsgi-Defer-Doctor"
SHORTEST_TOKEN = 16
LONGEST_CALL = 30.0  # seconds
BIG = 20_000_000  # more than the buffers of the kernels on the way
CHUNK = b"x" * 50_000
STEP = 0.05  # seconds between two looks at the time
FILE = Path(__file__)  # a file that is there
_looks_like_a_token = re.compile(f"[!-~]{{{SHORTEST_TOKEN},}}").fullmatch


def check_token(token: object) -> str:
    """Refuse what protects nothing, or is no header. Raises ``ValueError``."""
    if not isinstance(token, str) or not _looks_like_a_token(token):
        raise ValueError(
            f"the doctor needs a token of at least {SHORTEST_TOKEN} printable ASCII "
            "characters, without spaces: one that python -c 'import secrets; "
            "print(secrets.token_urlsafe())' prints"
        )
    return token


def doctor_app(*, token: str, may_stop: bool = False) -> WSGIApplication:
    """The WSGI app that ``python -m wsgi_defer doctor URL`` asks.

    Mount it inside of ``DeferMiddleware``, at a path that your app does not use. It
    answers those who send the token, and says 403 to all others. Who has the token can
    occupy a worker for up to 30 seconds by each request: take it out when you are done.

    :param token: a secret, which the command is given, too. Raises ``ValueError`` if it
        is shorter than 16 characters.
    :param may_stop: whether ``--also-stop`` may send TERM to a worker of gunicorn.
    """
    secret = check_token(token).encode()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_X_WSGI_DEFER_TOKEN", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, secret):
            return _refuse(start_response, "403 Forbidden", "the token is wrong")
        return _Answer(environ, start_response, may_stop).body()

    return app


def _refuse(start_response: StartResponse, status: str, why: str) -> list[bytes]:
    text = f"wsgi_defer doctor: {why}\n".encode()
    length = ("Content-Length", str(len(text)))
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), length])
    return [text]


class _Answer:
    """The answer to one request."""

    def __init__(
        self, environ: WSGIEnvironment, start_response: StartResponse, may_stop: bool
    ) -> None:
        self.environ, self.respond, self.may_stop = environ, start_response, may_stop
        query = parse_qs(environ.get("QUERY_STRING", ""))
        self.shape = environ.get("PATH_INFO", "").rpartition("/")[2]
        self.key = query.get("key", [""])[0]
        self.seconds = query.get("seconds", [""])[0]

    def start(self, length: int | None, status: str = "200 OK") -> None:
        headers = [
            ("Content-Type", "text/plain"), ("Cache-Control", "no-store"),
            (FACTS_HEADER, json.dumps(facts(self.environ))),
        ]  # fmt: skip
        if status[:3] == "204":
            headers = headers[1:]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        self.respond(status, headers)

    def body(self) -> Iterable[bytes]:
        """What the app returns."""
        if self.shape == "hello":
            return self.text("hello")
        if not _notes.is_key(self.key):
            return _refuse(self.respond, "400 Bad Request", "no such request")
        if self.shape == "report":
            return self.text(json.dumps(_notes.read(self.key)))
        if self.shape == "stop":
            gunicorn = "gunicorn.socket" in self.environ
            if not (self.may_stop and gunicorn):
                why = "doctor_app(may_stop=True) was not given, or this is not gunicorn"
                return _refuse(self.respond, "409 Conflict", why)
        return self.with_a_call()

    def text(self, text: str) -> list[bytes]:
        data = text.encode()
        self.start(len(data))
        return [] if self.environ.get("REQUEST_METHOD") == "HEAD" else [data]

    def with_a_call(self) -> Iterable[bytes]:
        """An answer of that shape, after which a call takes some time."""
        try:
            seconds = min(max(float(self.seconds), 0.0), LONGEST_CALL)
        except ValueError:
            return _refuse(self.respond, "400 Bad Request", "no such time")
        if get_current() is not None:
            _notes.drop_old()
            key = self.key
            defer(take, key, seconds, self.shape == "stop").when(
                lambda outcome: note_outcome(key, outcome)
            )
        match self.shape:
            case "length" | "stop":
                return self.text("hello")
            case "stream":
                self.start(None)
                return iter([b"hel", b"lo"])
            case "204":
                self.start(None, "204 No Content")
                return []
            case "file":
                self.start(FILE.stat().st_size)
                wrapper: Any = self.environ.get("wsgi.file_wrapper", in_blocks)
                return wrapper(FILE.open("rb"))  # type: ignore[no-any-return]
            case "big":
                self.start(BIG)
                return (CHUNK for _ in range(BIG // len(CHUNK)))
        return _refuse(self.respond, "404 Not Found", "no such shape")


def in_blocks(file: Any) -> Iterator[bytes]:
    """Where the server has no file wrapper."""
    with file:
        while block := file.read(8192):
            yield block


def facts(environ: WSGIEnvironment) -> dict[str, object]:
    """What the advice depends on."""
    scope = get_current()
    return {
        "scope": scope is not None,
        "inline": None if scope is None else scope.options.inline,
        "gunicorn": "gunicorn.socket" in environ,
        "multithread": bool(environ.get("wsgi.multithread")),
        "our_worker": handed_over() is not None,
        "hooks": host.current.recorded,
    }


def note_outcome(key: str, outcome: Outcome) -> bool:
    """Note it; the call always runs."""
    _notes.write(key, "outcome", delivered=outcome.delivered)
    return True


def take(key: str, seconds: float, stop: bool) -> None:
    """The call: it takes that time."""
    main = threading.current_thread() is threading.main_thread()
    _notes.write(key, "begun", main=main, pid=os.getpid())
    if stop:
        os.kill(os.getpid(), signal.SIGTERM)
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        time.sleep(min(left, STEP))
    _notes.write(key, "ended")
