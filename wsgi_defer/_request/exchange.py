"""One request and its response: one object, which is the scope of its calls, too."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from time import monotonic
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from .. import background
from .._calls.drain import discard_held, run_held
from .._calls.options import Options
from .._calls.outcome import new_outcome
from .._calls.scope import Scope, enter, leave
from .._runtime.forks import end_fork
from .._servers.detect import server_of
from .._servers.server import Server, is_sendfile_body
from .._servers.spent import GuardedInput
from ..errors import DeferError
from .bare_flask import warn_of_bare_flask
from .bodies import (
    CLOSED,
    ProxyBody,
    SizedBody,
    close_steps,
    hook_close,
    is_body,
    step_through,
    steps_of,
)
from .inline_or_background import run_calls
from .length import lacks_length

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Headers = list[tuple[str, str]]


class Exchange(Scope):
    """One request and its response: what the server is told, and when.

    The app's ``start_response`` goes to the server at once, for those in between who
    note the status. It is held only if calls are to run before the response, or if
    calls are pending and a finished body may need a length: until the response really
    starts, which is when the app returns, calls ``write()``, or yields its first item.

    For a body that is a generator, this object is also the body that the server gets.
    It takes one step of the app's for each of its own, inside the scope. One object for
    all that, because every request makes one; and a class, because a generator that is
    closed early, or never started, would not notice its end.
    """

    answers = True
    # On the class, because few requests set them.
    status: str | None = None  # as the app gave it
    complete = False  # the server has taken the last item
    ended = False  # the server has closed or dropped the body, or gets none
    was_dropped = False  # dropped, not closed
    _handled: BaseException | None = None  # what was being handled at the last item
    _error: BaseException | None = None  # what the app, or a held call, raised
    _taken_over = False  # the app has served the connection itself, and says so
    _raised = False  # the app did, so the server has yet to send its error page
    _waiting: tuple[Any, ...] | None = None  # a start_response call that is held
    _write: Callable[[bytes], object] | None = None  # the server's
    _headers: Headers | None = None  # if calls were pending when the app gave them
    _lacks_length = False  # whether they do, and there is a body
    _refusal: list[bytes] | None = None  # the body of a 503
    _guard: GuardedInput | None = None
    _given_id: str | None = None  # by a proxy, or anybody
    _request_id: str | None = None
    _sent_at: float | None = None  # when the server was done with the body
    _known_server: Server | None = None
    _inner: Any = ()  # the app's body
    steps: Iterator[bytes] = CLOSED  # through that

    def __init__(
        self, options: Options, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        # As in Scope.__init__(), without a call of it.
        self.options = options
        self.held = {}
        self.deferred = {}
        self.registered = 0
        self._environ: Any = environ
        self._respond: Any = start_response
        self._began = monotonic()

    @property
    def request_id(self) -> str:
        """The header ``X-Request-ID`` if it looks like one, else a number made here."""
        if self._request_id is None:
            environ, given = self._environ, self._given_id
            if environ is not None:
                given = environ.get("HTTP_X_REQUEST_ID")
            if given is None or not _REQUEST_ID(given):
                given = f"{os.getpid()}-{next(_request_numbers)}"
            self._request_id = given
        return self._request_id

    @property
    def _server(self) -> Server:
        if self._known_server is None:
            self._known_server = server_of(self._environ, self._respond)
        return self._known_server

    def keep_environ(self, environ: WSGIEnvironment) -> WSGIEnvironment:
        """The environ for the app, in a dict that the server does not clear."""
        if self._environ is not environ or self._guard is not None:
            return environ  # it is one of the app's, or that already
        self._environ = own = dict(environ)
        own["wsgi.input"] = self._guard = GuardedInput(environ.get("wsgi.input"))
        return own

    # The head

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """What the app gets as its ``start_response``."""
        if self.registered and not self.started:
            self._headers = headers
            self._lacks_length = lacks = lacks_length(status, headers, self._environ)
            if self.status is None and isinstance(status, str):
                server = self._server
                if (
                    self.held
                    or not server.revokes_head
                    or (lacks and not server.adds_length(self._respond))
                ):
                    self.status = status
                    self._waiting = (status, headers, exc_info)
                    return self.write
            if self._waiting is not None:  # the server judges both
                self._write = self._pass(*self._waiting)
        respond = self._respond
        # As in _pass(), without a frame more for each response.
        write: Callable[[bytes], object] = (
            respond(status, headers, exc_info) if exc_info else respond(status, headers)
        )
        self.status = status  # now that the server has accepted it
        return write

    def _pass(self, status: str, headers: Headers, exc_info: Any) -> Any:
        self._waiting = None
        if exc_info:
            return self._respond(status, headers, exc_info)
        return self._respond(status, headers)

    def write(self, data: bytes) -> object:
        """What the app gets from ``start_response`` while that is held."""
        if self._write is None:
            self.begin()
        if self._refusal is not None:
            return None
        return self._write(data)  # type: ignore[misc]

    def begin(self, body: Sequence[bytes] | None = None) -> list[bytes] | None:
        """Start the response. Returns the body of a 503 if a held call failed.

        ``body`` is the app's, if it is a finished list or tuple.
        """
        self.started = True
        if self.held:
            code = self._code()
            if code is None or code >= 400:
                discard_held(self, f"the status is {self.status}")
            elif not self._run_held():
                return self._refusal
        if body is not None and self._lacks_length:
            self._give_length(body)
        if self._waiting is not None:
            self._write = self._pass(*self._waiting)
        return self._refusal

    def _give_length(self, body: Sequence[bytes]) -> None:
        add = None
        if self._waiting is None:
            add = self._server.length_adder(self._respond)
            if add is None:
                return
        lacks = lacks_length(self.status, self._headers, self._environ)  # still
        if lacks and all(isinstance(item, bytes) for item in body):
            length = sum(len(item) for item in body)
            if add is not None:
                add(length)
            else:
                status, headers, exc_info = self._waiting  # type: ignore[misc]
                headers = [*headers, ("Content-Length", str(length))]
                self._waiting = status, headers, exc_info

    def _run_held(self) -> bool:
        error = run_held(self)
        try:
            if error is not None:
                self._refuse(error)
            return error is None
        finally:
            del error  # frame cycle

    def _refuse(self, error: BaseException) -> None:
        self._error = error
        self.status = "503 Service Unavailable"
        text = b"Service Unavailable\n"
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
        ]
        if self._waiting is not None:
            self._pass(self.status, headers, None)
        else:  # the server has the app's own already, and is to replace them
            self._server.forget_headers(self._respond)
            trace = (type(error), error, error.__traceback__)
            self._pass(self.status, headers, trace)
        head = self._environ.get("REQUEST_METHOD") == "HEAD"
        self._refusal = [] if head else [text]

    def _code(self) -> int | None:
        try:
            return int(self.status[:3])  # type: ignore[index]
        except (TypeError, ValueError):  # none, or not a valid one
            return None

    # The body

    def answer(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Choose what to hand to the server for the body that the app returned."""
        finished = body if isinstance(body, (list, tuple)) else None
        is_file = finished is None and is_sendfile_body(self._environ, body)
        if finished is None and not is_file and not is_body(body):
            if self.registered and self._server.is_end(body):
                self._taken_over = True
                self.abort(StopIteration())
                return body
            self.abort(
                TypeError(
                    f"the app returned {type(body).__name__}, which is not a WSGI body"
                )
            )
            return body  # the server says so in its own way
        if not self.registered:
            if is_file and self.end_unused():
                return body
            return self.stream(body)
        if self.status is not None:
            try:
                instead = self.begin(finished)
            except BaseException:  # the server does not get the body to close it
                if (close := getattr(body, "close", None)) is not None:
                    close()
                raise
            if instead is not None:
                return SizedBody(self, instead, owner=body)
        if finished is not None:
            return SizedBody(self, finished)
        if is_file:
            headers = self._headers or []
            made_of = self._server.file_inside(self._environ, body, headers)
            hooked = hook_close(self, body, made_of)
            if hooked is not None:
                return hooked  # type: ignore[no-any-return]
        return self.stream(body)

    def stream(self, inner: Any) -> Exchange | ProxyBody | SizedBody:
        """Take the app's body; return what shows the server all that it shows."""
        if self.status is not None:
            self.started = True
        generator = type(inner) is GeneratorType
        if not generator and hasattr(type(inner), "__len__"):
            return SizedBody(self, inner)
        self._inner = inner
        self.steps = step_through(inner, self)
        return self if generator else ProxyBody(self, inner)

    def __iter__(self) -> Iterator[bytes]:
        return steps_of(self, self.steps)

    def __next__(self) -> bytes:
        return next(self.steps)

    def close(self) -> None:
        """What the server calls if this object is the body, or inside of it."""
        if self.ended:
            return
        self.ended = True
        steps, self.steps = self.steps, CLOSED
        inner, self._inner = self._inner, ()
        if not self.complete:
            close_steps(steps)
        elif type(inner) is GeneratorType and inner.gi_frame is None:
            # It has ended, so its own close() does nothing.
            if self.registered or self.forked or not self.end_unused():
                self.end_response(None)
            return
        self.end_response(getattr(inner, "close", None))

    # How the response ends

    def note_complete(self) -> None:
        """The server has taken the last item, and has not failed so far."""
        self.complete = True
        if self.registered:
            self._handled = sys.exc_info()[1]

    def note_incomplete(self) -> None:
        """The server reads the body step by step, and may stop early."""
        self.complete = False

    def note_dropped(self) -> None:
        """The body is dropped, not closed."""
        self.was_dropped = True

    def end_once(self, close: Callable[[], object] | None) -> None:
        """As ``end_response()``, and no effect the second time."""
        if not self.ended:
            self.ended = True
            self.end_response(close)

    def dropped(self) -> None:
        """The body is dropped, not closed, which is a server's fault.

        The garbage collector may be at work, in any thread and at any line, even inside
        a context variable: to set one in there can crash CPython, and no code of the
        app's belongs there. So the background thread does all the rest.
        """
        if self.ended:
            # The calls have been dropped by whatever was to run them; unless the body
            # was dropped with this scope, and has just handed it to the background.
            if not self.was_dropped:
                super().dropped()
            return
        self.was_dropped = True
        if self.registered or self.guests:
            self.close()
        else:
            self.closed = True

    def app_failed(self, error: BaseException) -> None:
        """The app raised ``error``, and the server is about to deal with it."""
        if not self.stopped:  # else the app's close() has raised, too
            if self._is_websocket() and self._server.is_end(error):
                self._taken_over = True
            self._error = None if self._taken_over else error
            # Asked now, before its traceback has the server's own frames.
            self.note_order(error)
        self._raised = True
        if self._waiting is not None and self._server.needs_head_to_close:
            self._pass(*self._waiting)

    def abort(self, error: BaseException) -> None:
        """The app raised, so the server gets no body, and closes none."""
        self.ended = True
        self.app_failed(error)
        if not self.end_unused():
            self._run_calls(delivered=self._error is None)

    def end_response(self, close: Callable[[], object] | None) -> None:
        """Close the app's body by its own ``close()``, and run the calls."""
        if self.forked:  # the app has forked in its body
            end_fork()
        if self.was_dropped and (self.registered or self.guests):
            # Not in here, where the garbage collector may be at work.
            ready = background.nothing_to_wait_for
            if close is not None:
                ready = partial(self._close_body, close)
            drain = self._drain(False, ready)
            background.submit(*drain, limited=False)
            return
        # Set where the server closes in a finally, because sending failed.
        sending = None
        if self.registered:
            sending = sys.exc_info()[1]
            self._sent_at = monotonic()
        sent = sending is None or sending is self._handled
        try:
            if close is not None:
                self._close_body(close)
        finally:
            del sending
            if self.registered or not self.end_unused():
                self._run_calls(sent and (self.complete or self._is_bodiless()))

    def _is_bodiless(self) -> bool:
        # Some servers do not even look at the body of such a response.
        method = self._environ.get("REQUEST_METHOD")
        none = method == "HEAD" or self._code() in (204, 304)
        return none and self._error is None and self.status is not None

    def end_unused(self) -> bool:
        """Close the scope if nothing was ever registered; False if something was."""
        if self.registered:
            return False
        self.closed = True
        if self.registered:  # by another thread, meanwhile: see Scope.append()
            self.closed = False
            return False
        self._environ = self._respond = self._error = None  # as in _drain()
        if self.guests:
            self.abandon_guests()
        return True

    def _close_body(self, close: Callable[[], object]) -> None:
        token = enter(self)  # the app's close() may defer, too
        try:
            close()
        except BaseException as error:
            self.app_failed(error)
            raise
        finally:
            leave(token)

    def _is_websocket(self) -> bool:
        """The app may have served the connection itself, without a response."""
        upgrade = self.registered and self._environ.get("HTTP_UPGRADE")
        return isinstance(upgrade, str) and upgrade.lower() == "websocket"

    def _run_calls(self, delivered: bool) -> None:
        if self.options.around is None and "flask.globals" in sys.modules:
            warn_of_bare_flask(self.deferred)
        environ, respond, server = self._environ, self._respond, self._server
        raised = self._raised
        ready: Callable[[], object] = background.nothing_to_wait_for
        if raised:
            ready = server.after_error_page(environ)
        drain = self._drain(delivered, ready)
        run_calls(drain, server, environ, respond, self.options.inline, raised)

    def _drain(self, delivered: bool, ready: Callable[[], object]) -> background.Drain:
        """What is needed to run the calls, in whatever thread that will be."""
        code, error = self._code(), self._error
        if (
            code is None
            and error is None
            and not (self._taken_over or self._is_websocket())
        ):
            error = DeferError("the app never called start_response() with a status")
        duration = (self._sent_at or monotonic()) - self._began
        # Keep nothing of the request. The environ, for one, holds this scope.
        self._given_id = self._environ.get("HTTP_X_REQUEST_ID")
        if self._guard is not None:
            self._guard.spend()
        self._server.leave_request(self._environ, self._respond)
        self._environ = self._respond = self._write = self._headers = None
        self._error = self._handled = None
        if self.held:
            discard_held(self, "the response never started")
        outcome = new_outcome((code, error, delivered, duration))
        self.outcome = outcome
        return self, outcome, ready


# No line break that would forge a line of the log, and nothing too long for the ledger.
_REQUEST_ID = re.compile(r"[\w.:+/=@-]{1,63}", re.ASCII).fullmatch
_request_numbers = itertools.count(1)
