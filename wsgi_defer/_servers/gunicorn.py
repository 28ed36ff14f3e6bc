"""gunicorn, without our worker classes and with them (``wsgi_defer.gunicorn``)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..background import Drain
from .half_close import ClosingServer
from .handover import handed_over
from .server import is_http1
from .spent import SpentInput, has_body
from .stack import is_closed_by, local_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ASYNC = "gunicorn.workers.base_async"
PACKAGE = "gunicorn."  # the start of the names of its modules
MODULE = "gunicorn.http.wsgi"  # where its responses are


class Gunicorn(ClosingServer):
    """Its sync worker closes the connection after each response (workers/sync.py,
    handle()); the others keep it open, and say ``wsgi.multithread``.

    Measured with 20.1, 23 and 27: plain, with TLS, on a unix socket, behind nginx, with
    20 MB still to be read.
    """

    socket_key = "gunicorn.socket"

    def closing_socket(self, environ: WSGIEnvironment) -> Any:
        stays = environ.get("wsgi.multithread", True)
        return None if stays else self.connection(environ)

    def is_out(self, start_response: StartResponse) -> bool:
        response = _response(start_response)
        if response is None or not response.headers_sent:
            return False
        # A middleware outside that closes the body too early, such as New Relic's, can
        # add nothing to a length that has been sent (http/wsgi.py, Response.write).
        # Asked first: to look at the stack costs ten times as much.
        length = response.response_length
        return (length is not None and response.sent >= length) or is_closed_by(PACKAGE)

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """The next request on a connection that stays open, and the other streams of
        HTTP/2. On a sync worker, a middleware outside may have collected the body, and
        send it only now."""
        return True

    def taker(self, environ: WSGIEnvironment) -> Callable[[Drain], object] | None:
        drains = handed_over()
        return None if drains is None or not is_http1(environ) else drains.append

    def is_end(self, answer: object) -> bool:
        """Every worker closes the connection on StopIteration, and logs no failure;
        those of workers/base_async.py also on an object of theirs."""
        handled = getattr(sys.modules.get(ASYNC), "ALREADY_HANDLED", self)
        return isinstance(answer, StopIteration) or answer is handled

    def leave_request(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        """A framework may keep the body, which the worker reads to its end before the
        next request (http/parser.py). So the worker gets a copy of it."""
        if not has_body(environ):
            return  # its own input says at once that there is nothing
        super().leave_request(environ, start_response)
        response = _response(start_response)
        if getattr(response, "sock", None) is not environ.get(self.socket_key):
            return  # of another request, during which this one's body was dropped
        request: Any = getattr(response, "req", None)
        body: Any = getattr(request, "body", None)
        if type(body).__module__ == "gunicorn.http.body":
            request.body = copy(body)
            body.reader, body.buf = SpentInput(), BytesIO()

    def forget_headers(self, start_response: StartResponse) -> None:
        """It adds the new headers to the old ones, up to 27.0 at least (http/wsgi.py,
        Response.start_response)."""
        response = _response(start_response)
        if response is not None:
            response.headers = []
            response.response_length = None

    def adds_length(self, start_response: StartResponse) -> bool:
        """Behind another ``start_response``, none is added, as that may belong to what
        changes the body; nobody needs one there, as the end of the stream comes first.
        """
        return _response(start_response) is not None

    def length_adder(
        self, start_response: StartResponse
    ) -> Callable[[int], object] | None:
        response = _own_response(start_response)
        if response is None or response.response_length is not None:
            return None
        if response.headers_sent or response.status is None:  # somebody holds it back
            return None
        return partial(_add_length, response)


def _add_length(response: Any, length: int) -> None:
    response.headers.append(("Content-Length", str(length)))
    response.response_length = length
    response.chunked = response.is_chunked()


def _own_response(start_response: StartResponse) -> Any:
    """gunicorn's object for this response; None behind another ``start_response``."""
    response = getattr(start_response, "__self__", None)
    return response if type(response).__module__ == MODULE else None


def _response(start_response: StartResponse) -> Any:
    """The same, also behind another ``start_response``: ``handle_request()`` of the
    workers has it. To look at, not to change: a middleware outside does not know."""
    response = getattr(start_response, "__self__", None)
    return (
        response if type(response).__module__ == MODULE else local_of(PACKAGE, "resp")
    )


GUNICORN = Gunicorn()
