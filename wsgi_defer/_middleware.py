"""The WSGI middleware: where a request's scope opens, and what the server is told."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Literal

from . import _transport, background
from ._call import Around
from ._drain import discard_held, run_held
from ._host import is_order_to_stop
from ._observer import Observer, Observers
from ._outcome import Outcome
from ._pool_kinds import Pools
from ._response import ResponseScope, SizedBody, hook_close, is_body
from ._room import WaitingRoom
from ._scope import MAX_CALLS, Options, enter, get_current, leave
from .errors import DeferError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]
_FRAMING = frozenset(["content-length", "transfer-encoding"])
SCOPE_KEY = "wsgi_defer.scope"


class DeferMiddleware:
    """Give every request of ``app`` a scope, and run its calls after the response.

    Wrap it around everything else: what is outside of it ends before the calls begin.
    If an app is wrapped twice, the outer one does the work. With nothing deferred, the
    response passes through as it is. The scope is ``environ["wsgi_defer.scope"]``.

    ::

        application = DeferMiddleware(app)

    :param app: the WSGI app.
    :param max_calls: how many calls one request may register; the next one raises
        ``TooManyCallsError``.
    :param around: a function that returns a context manager. Each call runs inside
        one of its own: for what a call needs fresh, such as a database session. An
        error in it is an error of the call. Jobs of a ``ThreadPool`` or ``AsyncPool``
        run inside one, too.
    :param inline: True runs the calls in the thread that served the request, False on
        the background thread. By default the server decides: inline, unless a client
        would have to wait for them.
    :param when_busy: "thread" looks before each call whether a client waits for this
        process, and then leaves the rest to the background thread, which the app must
        be safe with. "inline" finishes them first. Known under gunicorn only, with
        the hooks of ``wsgi_defer.gunicorn``, or its worker classes.
    :param observers: each hears of every call, besides the log; see ``Observer``.
    :param time_limit: seconds for each deferred call that has no limit of its own; see
        ``DeferredCall.time_limit()`` for where a call can be ended.
    :param slow_after: seconds after which the stack of a running call is logged, once.
        Under gevent, of one that waits for something, not of one that computes.
    :param max_waiting: how many deferred calls may wait in this process, of all
        requests to this middleware.
    :param when_full: what a call over that does: "raise" raises
        ``TooManyWaitingError``; "drop" drops the oldest, which is then lost.
    :param pools: those of ``pool(name)``, by their names; see ``wsgi_defer.pools``.
        ``default`` is ``ThreadPool(8, max_wait=30)`` unless it is among them.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        max_calls: int = MAX_CALLS,
        around: Around | None = None,
        inline: bool | None = None,
        when_busy: Literal["inline", "thread"] = "inline",
        observers: Iterable[Observer] = (),
        time_limit: float | None = None,
        slow_after: float | None = None,
        max_waiting: int | None = None,
        when_full: Literal["raise", "drop"] = "raise",
        pools: Pools | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(
                "DeferMiddleware takes a WSGI app, a function of environ and "
                f"start_response, not {type(app).__name__}"
            )
        _check_choice("when_busy", when_busy, ("inline", "thread"))
        _check_choice("when_full", when_full, ("raise", "drop"))
        room = None
        if max_waiting is not None:
            if max_waiting < 1:
                raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
            room = WaitingRoom(max_waiting, drop_oldest=when_full == "drop")
            observers = [room, *observers]
        self.app = app
        self.options = Options(
            max_calls, around, inline, when_busy == "thread", Observers(observers),
            time_limit, slow_after, room, pools,
        ).checked()  # fmt: skip
        _transport.install()

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        if SCOPE_KEY in environ:
            outer = get_current()
            if outer is not None and outer is environ[SCOPE_KEY] and not outer.closed:
                # Wrapped twice, or part of a larger request: the outer one's to run.
                if outer.options.around is None:
                    outer.options = outer.options._replace(around=self.options.around)
                if outer.options.pools is None:
                    outer.options = outer.options._replace(pools=self.options.pools)
                return self.app(environ, start_response)
        scope = environ[SCOPE_KEY] = _Exchange(self.options, environ, start_response)
        if "_bjoern" in sys.modules:
            _transport.note_files(environ)
        token = enter(scope)
        try:
            body = self.app(environ, scope.start_response)
            if not scope.registered:
                if isinstance(body, (list, tuple)) and scope.end_unused():
                    return body
                if type(body) is GeneratorType:
                    return scope.stream(body)
            return scope.answer(body)
        except BaseException as error:
            scope.abort(error)
            raise
        finally:
            leave(token)


class _Exchange(ResponseScope):
    """One request and its response: what the server is told, and when.

    The app's ``start_response`` goes to the server at once, unless calls are pending.
    Then it is held until the response really starts, which is when the app returns,
    calls ``write()``, or yields its first item: only then is its status final.
    """

    # On the class, because few requests set them.
    _error: BaseException | None = None  # what the app, or a held call, raised
    _waiting: tuple[Any, ...] | None = None  # a start_response call that is held
    _write: Callable[[bytes], object] | None = None  # the server's
    _refusal: list[bytes] | None = None  # the body of a 503
    _given_id: str | None = None  # by a proxy, or anybody
    _request_id: str | None = None
    _sent_at: float | None = None  # when the server was done with the body

    def __init__(
        self,
        options: Options,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> None:
        self.options = options
        self._held = []
        self._deferred = []
        self._environ: Any = environ
        self._respond: Any = start_response
        self._began = monotonic()

    @property
    def request_id(self) -> str:
        """The header ``X-Request-ID`` if it looks like one, else a number here."""
        if self._request_id is None:
            environ, given = self._environ, self._given_id
            if environ is not None:
                given = environ.get("HTTP_X_REQUEST_ID")
            if given is None or not _REQUEST_ID(given):
                given = f"{os.getpid()}-{next(_request_numbers)}"
            self._request_id = given
        return self._request_id

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """What the app gets as its ``start_response``."""
        if self.registered and not self.started:
            if self.status is None and isinstance(status, str):
                self.status = status
                self._waiting = (status, headers, exc_info)
                return self.write
            if self._waiting is not None:  # the server is to judge them both
                self._write = self._pass(*self._waiting)
        write: Callable[[bytes], object] = self._pass(status, headers, exc_info)
        self.status = status  # now that the server has taken it
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
        if self._held:
            code = self._code()
            if code is None or code >= 400:
                discard_held(self, f"the status is {self.status}")
            elif not self._run_held():
                return self._refusal
        if self._waiting is not None:
            status, headers, exc_info = self._waiting
            if body is not None and self._lacks_length(headers, body):
                length = sum(len(item) for item in body)
                headers = [*headers, ("Content-Length", str(length))]
            self._write = self._pass(status, headers, exc_info)
        return self._refusal

    def _run_held(self) -> bool:
        error = run_held(self)
        try:
            if error is not None:
                self._refuse(error)
            return error is None
        finally:
            del error  # its traceback leads back to this frame

    def _lacks_length(self, headers: Headers, body: Sequence[bytes]) -> bool:
        # Most servers can only end a body without a length by closing the connection.
        try:
            for name, _ in headers:
                if name.lower() in _FRAMING:
                    return False
        except (TypeError, ValueError, AttributeError):
            return False  # no headers: the server is to say so
        return (
            self._code() not in (204, 304)
            and self._environ.get("REQUEST_METHOD") != "HEAD"
            and all(isinstance(item, bytes) for item in body)
        )

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
            _transport.forget_headers(self._respond)
            trace = (type(error), error, error.__traceback__)
            self._pass(self.status, headers, trace)
        head = self._environ.get("REQUEST_METHOD") == "HEAD"
        self._refusal = [] if head else [text]

    def answer(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Choose what to hand to the server for the body that the app returned."""
        finished = body if isinstance(body, (list, tuple)) else None
        is_file = finished is None and _transport.is_sendfile_body(self._environ, body)
        if finished is None and not is_file and not is_body(body):
            self.abort(TypeError(f"the app returned {type(body).__name__}, no body"))
            return body  # the server says so in its own way
        if not self.registered:
            if is_file and self.end_unused():
                return body
            return self.stream(body)
        headers = [] if self._waiting is None else self._waiting[1]
        if self.status is not None:
            try:
                instead = self.begin(finished)
            except BaseException:  # the server does not get the body to close it
                if (close := getattr(body, "close", None)) is not None:
                    close()
                raise
            if instead is not None:
                return SizedBody(self, instead, owner=body)
        if is_file:
            made_of = _transport.file_inside(self._environ, body, headers)
            hooked = hook_close(self, body, made_of)
            if hooked is not None:
                return hooked  # type: ignore[no-any-return]
        return self.stream(body)

    def fail(self, error: BaseException) -> None:
        """The app raised ``error``, and the server is about to deal with it."""
        if not self.stopped:  # else the app's close() has raised, too
            self._error = error
            # Asked now, before its traceback has the server's own frames.
            self.stopped = is_order_to_stop(error)
        self._elsewhere = True  # the error page is not out, and must not wait
        if self._waiting is not None and _transport.wants_head_to_close(self._environ):
            self._pass(*self._waiting)

    def abort(self, error: BaseException) -> None:
        """The app raised, so the server gets no body, and closes none."""
        self._ended = True
        self.fail(error)
        if not self.end_unused():
            self._run_calls(delivered=False)

    def finish(self, close: Callable[[], object] | None) -> None:
        """Close the app's body, tell the client that was all, and run the calls."""
        if self._dropped and (self.registered or self._guests):
            # Not in here, where the collector of garbage may be at work.
            job = self._job(False, partial(self._close_body, close))
            background.submit(*job, limited=False)
            return
        # Set where the server closes in a finally, because sending failed.
        sending = None
        if self.registered:
            sending = sys.exc_info()[1]
            self._sent_at = monotonic()
        sent = sending is None or sending is self.handled
        try:
            self._close_body(close)
        finally:
            del sending
            if not self.end_unused():
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
        if self.registered:  # by another thread, meanwhile: see Scope._append()
            self.closed = False
            return False
        self._environ = self._respond = self._error = None  # as in _job()
        if self._guests:
            self.end_guests()
        return True

    def _close_body(self, close: Callable[[], object] | None) -> None:
        if close is None:
            return
        token = enter(self)  # the app's close() may defer, too
        try:
            close()
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            leave(token)

    def _run_calls(self, delivered: bool) -> None:
        environ, respond = self._environ, self._respond
        inline = self.options.inline
        ready: Callable[[], object] = background.nothing_to_wait_for
        if self._elsewhere:
            ready = _transport.closing(environ)
        job = self._job(delivered, ready)
        take = _transport.taker(environ)
        if take is not None and inline is not False:
            take(job)
            return
        if inline is None:
            inline = not _transport.somebody_would_wait(environ, respond)
        if (self._elsewhere or not inline) and _transport.goes_on(environ):
            background.submit(*job)
        else:
            if not self._elsewhere:
                _transport.finish(environ, respond)
            background.drain_here(*job[:2])

    def _job(self, delivered: bool, ready: Callable[[], object]) -> background.Job:
        """What is needed to run the calls, wherever that will be."""
        code, error = self._code(), self._error
        if code is None and error is None:
            error = DeferError("the app never called start_response() with a status")
        duration = (self._sent_at or monotonic()) - self._began
        # Keep nothing of the request. The environ, for one, holds this scope.
        self._given_id = self._environ.get("HTTP_X_REQUEST_ID")
        self._environ = self._respond = self._write = None
        self._error = self.handled = None
        if self._held:
            discard_held(self, "the response never started")
        self.outcome = outcome = Outcome(code, error, delivered, duration)
        return self, outcome, ready

    def _code(self) -> int | None:
        try:
            return int(self.status[:3])  # type: ignore[index]
        except (TypeError, ValueError):  # none, or none that is valid
            return None


# No line break that would fake a line of the log, and nothing too long for the ledger.
_REQUEST_ID = re.compile(r"[\w.:+/=@-]{1,63}", re.ASCII).fullmatch
_request_numbers = itertools.count(1)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{option} is {allowed}, not {value!r}")
