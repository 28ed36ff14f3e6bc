"""The app that a server is tested with: one path for each shape of response.

Its callable waits at a gate, a file that the client makes when it has seen all that it
can see. So whoever has the end of the response by then has not waited for the callable,
on any machine, however slow. What happens is written to a log, a file of JSON lines for
each request, in the directory ``ROOT``.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .._request.middleware import DeferMiddleware
from .._runtime.clock import monotonic
from ._lint import KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ROOT = "WSGI_DEFER_LINT"  # the variable by which the kit tells its directory
GATE = 120.0  # seconds at a gate; more than any client has patience
BIG = 20_000_000
FILE = b"0123456789abcdef" * 20_000
HEADERS = [("Content-Type", "text/plain")]


def log(key: str, event: str, **facts: object) -> None:
    """Write a line to the log of that request."""
    with (Path(os.environ[ROOT]) / f"{key}.log").open("a") as file:
        file.write(json.dumps({"event": event, **facts}) + "\n")


def gated(key: str, *args: object) -> None:
    """Wait at the gate."""
    log(key, "begun")
    gate = Path(os.environ[ROOT]) / f"{key}.gate"
    deadline = monotonic() + GATE
    while not gate.exists() and monotonic() < deadline:
        time.sleep(0.005)
    log(key, "done")


def note(key: str, name: str, own: Any, *args: Any) -> None:
    """Log what it was called with; ``own`` is the app's environ."""
    facts: dict[str, object] = {"count": len(args)}
    if len(args) == 4:
        environ, status, headers, error = args
        facts["same"] = environ is own
        facts["status"] = status if isinstance(status, (str, int)) else None
        facts["headers"] = repr(headers)
        facts["error"] = None if error is None else type(error).__name__
        facts["is_error"] = isinstance(error, BaseException)
    log(key, "called", name=name, **facts)


def fail(key: str, *args: object) -> None:
    """Log it, and raise."""
    log(key, "called", name="raising")
    raise LookupError("a callable of the kit raises, as it is meant to")


class Noting:
    """A callable that is an object."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __call__(self, environ: Any, status: Any, headers: Any, error: Any) -> None:
        note(*self.args, environ, status, headers, error)


class Body:
    """An iterator with a close() that is written to the log."""

    def __init__(self, key: str, items: Iterable[bytes]) -> None:
        self.key, self.items = key, iter(items)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.items)

    def close(self) -> None:
        log(self.key, "closed")


def register(finished: list[Any], key: str, environ: Any, how: str) -> None:
    """Put into the list what is called ``how``."""
    if how == "gate":
        finished.append(partial(note, key, "noted", environ))
        finished.append(partial(gated, key))  # called first
        return

    def function(env: Any, status: Any, headers: Any, error: Any) -> None:
        note(key, "first", environ, env, status, headers, error)

    finished.append(function)
    finished.append(
        partial(fail, key)
        if how == "raising"
        else partial(note, key, "second", environ)
    )
    finished.append(Noting(key, "third", environ))


def native(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The path is the shape of the response; ``how`` is what is registered."""
    query = {
        name: value[0] for name, value in parse_qs(environ["QUERY_STRING"]).items()
    }
    key, how, shape = query["key"], query["how"], environ["PATH_INFO"].strip("/")
    finished: Any = environ.get(KEY)
    is_list = isinstance(finished, list)
    log(key, "began", list=is_list, length=len(finished) if is_list else None)
    if is_list and how != "nothing":
        register(finished, key, environ, how)

    def start(length: int | None = None, status: str = "200 OK") -> Any:
        more = [] if length is None else [("Content-Length", str(length))]
        return start_response(status, [*HEADERS, *more])

    body = answer(environ, start_response, start, key, shape)
    if environ["REQUEST_METHOD"] == "HEAD":  # as frameworks do
        getattr(body, "close", lambda: None)()
        return []
    return body


def answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    start: Any,
    key: str,
    shape: str,
) -> Iterable[bytes]:
    """The body of that shape, which the app starts, too."""
    if shape in ("file", "file_length", "memory_file"):
        length = len(FILE) if shape == "file_length" else None
        wrapper: Any = environ.get("wsgi.file_wrapper", read_in_blocks)
        file: Any = io.BytesIO(b"hello")
        if shape != "memory_file":
            file = (Path(os.environ[ROOT]) / "file").open("rb")
        start(length)
        return wrapper(file)  # type: ignore[no-any-return]
    match shape:
        case "list_length":
            start(5)
            return [b"hello"]
        case "list":
            start()
            return [b"hel", b"lo"]
        case "generator":
            start()
            return (part for part in (b"hel", b"", b"lo"))
        case "iterator":
            start()
            return Body(key, [b"hel", b"lo"])
        case "lazy":
            return lazy(start)
        case "write":
            write = start()
            if write is None:  # PEP 3333 says that there must be one
                log(key, "absent")
                return [b"hello"]
            write(b"hel")
            return [b"lo"]
        case "empty":
            start(status="302 Found")
            return []
        case "204":
            start_response("204 No Content", [])
            return []
        case "304":
            start_response("304 Not Modified", [])
            return []
        case "404":
            start(5, "404 Not Found")
            return [b"hello"]
        case "big":
            start(BIG)
            return (b"x" * 100_000 for _ in range(BIG // 100_000))
        case "raise":
            raise LookupError("raised before the response")
        case "raise_late":
            start()
            raise LookupError("raised after start_response")
        case "raise_first":
            return raising(start, 0)
        case "raise_middle":
            return raising(start, 2)
    raise ValueError(shape)


def read_in_blocks(file: Any, size: int = 8192) -> Iterator[bytes]:
    """What frameworks do without a file wrapper of the server's."""
    return iter(partial(file.read, size), b"")


def lazy(start: Any) -> Iterator[bytes]:
    """A generator that starts the response when it is asked for its first item."""
    start()
    yield b"hel"
    yield b"lo"


def raising(start: Any, items: int) -> Iterator[bytes]:
    """A body that raises after that many items."""
    start()
    yield from [b"x" * 1000] * items
    raise LookupError("raised in the body")


app = DeferMiddleware(native)
