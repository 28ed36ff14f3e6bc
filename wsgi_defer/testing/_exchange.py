"""``exchange()``: one request, as a server handles it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes
from wsgiref.headers import Headers
from wsgiref.util import FileWrapper, setup_testing_defaults

from .. import background
from .._calls import switch
from .._calls.call import Call, DeferredCall
from .._calls.outcome import Outcome
from .._calls.scope import Scope
from .._request.middleware import SCOPE_KEY
from ..observers._observer import Observer
from ..observers._observers import observe_process, stop_observing
from ._block import WAIT
from ._record import CallRecord

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment


@dataclass(frozen=True)
class Reply:
    """What the client got, and what became of the calls.

    ``status`` is a number, ``reason`` the text after it. ``headers`` ignores case in
    names. ``body`` is what the client got before it left. ``error`` is what the app or
    its body raised, which a server logs, or the ``SystemExit`` that ended the calls.
    ``outcome`` is what the calls were told, None if nothing was registered. ``calls``
    are the request's ``CallRecord`` objects, in the order of registration.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes
    error: BaseException | None
    outcome: Outcome | None
    calls: tuple[CallRecord, ...]


def exchange(
    app: WSGIApplication,
    path: str = "/",
    *,
    environ: Mapping[str, Any] | None = None,
    leaves_after: int | None = None,
) -> Reply:
    """Send ``app`` one request, as a server does, and wait until its calls have ended.

    The body is read to its end and closed. If the app raises before the response has
    started, the client gets a 500. ``path`` may have a query. ``environ`` has what
    differs from a plain GET, such as ``{"REQUEST_METHOD": "POST", "CONTENT_LENGTH":
    "4", "wsgi.input": BytesIO(b"data")}``. After ``leaves_after`` bytes of the body,
    the client is gone, and sending more fails, as on a socket. Ctrl-C goes up.
    """
    request = _environ(path, environ)
    connection = _Connection(leaves_after, request["REQUEST_METHOD"] == "HEAD")
    ends = _Ends(request)
    error: BaseException | None = None
    observe_process(ends)
    try:
        _serve(app, request, connection)
    except (Exception, SystemExit) as raised:
        if raised is not connection.broken:
            error = raised
            connection.fail()
    finally:
        background.join(WAIT)
        stop_observing(ends)
    return connection.reply(error, ends)


def _serve(
    app: WSGIApplication, environ: WSGIEnvironment, connection: _Connection
) -> None:
    body: Iterable[bytes] = app(environ, connection.start_response)
    try:
        for chunk in body:
            connection.send(chunk)
        connection.finish()
    finally:
        # Inside of the exception that has ended the sending, as in servers.
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _environ(path: str, more: Mapping[str, Any] | None) -> WSGIEnvironment:
    name, _, query = path.partition("?")
    environ: WSGIEnvironment = {
        "PATH_INFO": unquote_to_bytes(name).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.file_wrapper": FileWrapper,
        **(more or {}),
    }
    setup_testing_defaults(environ)
    return environ


class _Connection:
    """To the client, as the server sees it."""

    def __init__(self, leaves_after: int | None, bodiless: bool) -> None:
        self.broken: OSError | None = None
        self._leaves_after = leaves_after
        self._bodiless = bodiless
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._sent = False  # the head is out
        self._body = bytearray()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """What the app gets."""
        try:
            if exc_info and self._sent:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            failed, exc_info = bool(exc_info), None
        if self._head is not None and not failed:
            raise AssertionError("the app called start_response() twice")
        self._head = status, list(headers)
        return self.send

    def send(self, data: bytes) -> None:
        """Raises ``ConnectionResetError`` when the client is gone."""
        if not data:
            return
        self.finish()
        if self._bodiless:
            return
        self._body += data
        if self._leaves_after is not None and len(self._body) > self._leaves_after:
            del self._body[self._leaves_after :]
            self.broken = ConnectionResetError("the client has left")
            raise self.broken

    def finish(self) -> None:
        """Send the head, which waits for the first byte, or for the end."""
        if self._head is None:
            raise AssertionError("the app did not call start_response()")
        self._sent = True

    def fail(self) -> None:
        """The app has raised: send an error page, if there is still time."""
        if not self._sent:
            self._head = "500 Internal Server Error", []
            self._body.clear()

    def reply(self, error: BaseException | None, ends: _Ends) -> Reply:
        """All that became of it."""
        status, headers = self._head or ("", [])
        code, _, reason = status.partition(" ")
        return Reply(
            int(code), reason, Headers(headers), bytes(self._body), error,
            ends.outcome, ends.calls,
        )  # fmt: skip


class _Ends(Observer):
    """What became of the calls of one request."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._thread = threading.get_ident()
        self._records: dict[Call, CallRecord] = {}
        self._scope: Scope | None = None
        self._outcome: Outcome | None = None

    def _is_ours(self, scope: Scope) -> bool:
        own = self._environ.get(SCOPE_KEY)
        if own is None:  # somebody has copied the environ
            return scope.answers and threading.get_ident() == self._thread
        return scope is own

    def queued(self, call: Call, scope: Scope) -> None:
        if self._is_ours(scope):
            self._scope = scope
            self._records[call] = CallRecord.of(call)

    def _note(self, call: Call, scope: Scope, became: str, **more: Any) -> None:
        record = self._records.get(call)
        if record is None:
            return
        # Later, the scope lets go of the error in it, which leads back to the scope.
        self._outcome = scope.outcome or self._outcome
        self._records[call] = replace(
            record, name=call.name, outcome=scope.outcome, became=became, **more
        )

    def finished(self, call: Call, scope: Scope) -> None:
        value = call.result() if isinstance(call, DeferredCall) else None
        self._note(call, scope, "finished", value=value)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self._note(call, scope, "failed", error=error)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._note(call, scope, "skipped", why=why)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._note(call, scope, "lost", why=why)

    @property
    def outcome(self) -> Outcome | None:
        """What the calls were told."""
        if self._outcome is None and self._scope is not None:
            return self._scope.outcome
        return self._outcome

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """In the order of their registration."""
        held = switch.mode is not None and switch.mode.holds
        return tuple(
            replace(record, name=call.name, outcome=self.outcome,
                    became="captured" if held else "pending")
            if record.became == "pending" else record
            for call, record in self._records.items()
        )  # fmt: skip
