"""One request inside of Django: its scope, and the end of its response.

Django's response is the body that the server iterates and closes, or the file that it
sends. So what ``DeferMiddleware`` does around an app can be done inside of Django, too.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from .. import background
from .._calls.options import Options
from .._calls.outcome import Outcome
from .._calls.scope import enter, leave
from .._request.bodies import CLOSED, close_steps, step_through
from .._request.exchange import Exchange
from .._servers.detect import clears_environ

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HANDLER = "django.core.handlers.wsgi"


class DjangoExchange(Exchange):
    """A request in Django's middleware, which sees neither ``start_response`` nor what
    the server gets."""

    def __init__(
        self, options: Options, request: HttpRequest, respond: StartResponse | None
    ) -> None:
        super().__init__(options, request.META, respond)  # type: ignore[arg-type]
        self._request = ref(request)  # which leads to this one

    def answer_with(
        self, response: HttpResponseBase, early: bool = False
    ) -> HttpResponseBase:
        """The response has its final status: run the held calls, notice its end.

        If ``early``, its end is now: whoever closes it would do so on another thread.
        """
        self.status = str(response.status_code)
        if (refusal := self.begin()) is not None:
            text = b"".join(refusal)
            kind, length = "text/plain; charset=utf-8", str(len(text))
            refused = HttpResponse(text, kind, 503, headers={"Content-Length": length})
            refused._resource_closers.extend(response._resource_closers)
            response = refused
        if early and not response.streaming:
            self.note_complete()
            self.end_once(None)
            return response
        is_file = getattr(response, "file_to_stream", None) is not None
        sends_file = is_file and "wsgi.file_wrapper" in self._environ
        if sends_file or (self._respond is None and not response.streaming):
            # Unless an exception is on its way when it closes. Django's test client
            # does not read a finished response.
            self.note_complete()
        return self._follow(response, response.streaming and not sends_file)

    def _follow(self, response: Any, stepping: bool) -> HttpResponseBase:
        """Let it end this exchange; let streaming code defer, too."""
        kind: Any = type(response)
        if not hasattr(kind, "followed_by"):  # else an app keeps and reuses it
            try:
                response.__class__ = noticing(kind)
            except TypeError:  # a class that refuses another one below it
                close = partial(kind.close, response)
                response.close = partial(self.end_once, close)
                if not stepping:
                    self.note_complete()
        response.followed_by, response.steps = self, CLOSED
        if stepping and not response.is_async:
            steps = step_through(response.streaming_content, self)
            response.streaming_content = response.steps = steps
        return response  # type: ignore[no-any-return]

    @property
    def final_outcome(self) -> Outcome:
        """How the response has ended, also if nothing was deferred."""
        return self.outcome or Outcome(self._code())

    def _refuse(self, error: BaseException) -> None:
        self._error = error
        self.status = "503"
        self._refusal = [b"Service Unavailable\n"]

    def _drain(self, delivered: bool, ready: Callable[[], object]) -> background.Drain:
        request: Any = self._request()
        if request is not None and clears_environ():
            self._environ = request.META = request.environ = dict(request.META)
        drain = super()._drain(delivered, ready)
        if request is not None and not hasattr(request, "_body"):
            # The body that the view has not read is spent.
            limit = getattr(request._stream, "limit", 0)
            request._stream = LimitedStream(request.META["wsgi.input"], limit)
        return drain

    def _run_calls(self, delivered: bool) -> None:
        if self._respond is not None:
            super()._run_calls(delivered)
            return
        # Django's test client: nobody is on a wire, and the test's transaction is that
        # of the thread.
        drain = self._drain(delivered, background.nothing_to_wait_for)
        background.drain_here(*drain[:2])


def start_response_for(environ: WSGIEnvironment) -> StartResponse | None:
    """The server's own, from the frame of Django's handler; None without a server.

    Django passes its middleware the environ and not this. It tells whether the server
    has sent the head.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == HANDLER:
            here = frame.f_locals
            if here.get("environ") is environ and "start_response" in here:
                return here["start_response"]  # type: ignore[no-any-return]
        frame = frame.f_back
    return None


@lru_cache(maxsize=100)
def noticing(kind: type[Any]) -> type[Any]:
    """The class of a response, changed so that its end is noticed.

    It adds no base, so that a response of that class can become one of this.
    """

    class Noticing(kind):  # type: ignore[misc]
        followed_by: DjangoExchange | None = None  # as in another one, made by an app
        steps: Iterator[bytes] = CLOSED

        def __iter__(self) -> Iterator[bytes]:
            exchange = self.followed_by
            if exchange is None:
                return super().__iter__()  # type: ignore[no-any-return]
            token = enter(exchange)
            try:  # an asynchronous iterator is read to its end in here
                items: Iterator[bytes] = super().__iter__()
            finally:
                leave(token)
            if self.steps is not CLOSED:
                return items
            if not exchange.registered:
                exchange.note_complete()
                return items
            self.steps = step_through(items, exchange)
            return self.steps

        def close(self) -> None:
            exchange = self.followed_by
            if exchange is None:
                super().close()
            elif not exchange.ended:
                exchange.ended = True
                if not exchange.complete:
                    close_steps(self.steps)
                exchange.end_response(super().close)

        def __del__(self) -> None:
            exchange = self.followed_by
            if exchange is not None and exchange.registered and not exchange.ended:
                exchange.note_dropped()
                exchange.end_once(super().close)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # A cache outside of the middleware pickles it.
            plain = object.__new__(kind)
            vars(plain).update(vars(self))
            vars(plain).pop("followed_by", None)
            vars(plain).pop("steps", None)
            reduced = plain.__reduce_ex__(protocol)
            if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
                return reduced  # the class has a way of its own
            # Not its own first two: pickle looks at the class of this object.
            return object.__new__, (kind,), *reduced[2:]

    Noticing.__name__, Noticing.__module__ = kind.__name__, kind.__module__
    Noticing.__qualname__ = kind.__qualname__
    return Noticing
