"""gunicorn, without our worker classes and with them (``wsgi_defer.gunicorn``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..background import Drain
from .half_close import ClosingServer
from .handover import taking
from .server import is_http1

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Gunicorn(ClosingServer):
    """Its sync worker closes the connection after each response (workers/sync.py,
    handle()); the others keep it open, and say ``wsgi.multithread``.

    Measured with 20.1, 23 and 27: plain, with TLS, on a unix socket, behind nginx, with
    20 MB still to be read.
    """

    socket_key = "gunicorn.socket"
    package = "gunicorn."

    def closing_socket(self, environ: WSGIEnvironment) -> Any:
        return (
            None if environ.get("wsgi.multithread", True) else self.connection(environ)
        )

    def head_is_out(self, start_response: StartResponse) -> bool:
        response = _response(start_response)
        return response is not None and bool(response.headers_sent)

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """The next request on a connection that stays open, and the other streams of
        HTTP/2. On a sync worker, a middleware outside may have collected the body, and
        send it only now."""
        return True

    def taker(self, environ: WSGIEnvironment) -> Callable[[Drain], object] | None:
        return taking() if is_http1(environ) else None

    def forget_headers(self, start_response: StartResponse) -> None:
        """It adds the new headers to the old ones, up to 27.0 at least (http/wsgi.py,
        Response.start_response)."""
        response = _response(start_response)
        if response is not None:
            response.headers = []
            response.response_length = None


def _response(start_response: StartResponse) -> Any:
    """gunicorn's object for this response; None behind another ``start_response``."""
    response = getattr(start_response, "__self__", None)
    return response if type(response).__module__ == "gunicorn.http.wsgi" else None


GUNICORN = Gunicorn()
