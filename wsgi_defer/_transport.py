"""Per server: how the client learns that the response is complete.

Only for servers that are known to close the connection after this response, and have
said so to the client. On a connection that stays open, or on an unknown server, these
functions do nothing.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger("wsgi_defer")

CLOSE_WAIT = 3.0  # seconds; gunicorn 26+ lingers for up to 2 before it closes


def finish(environ: WSGIEnvironment) -> None:
    """Send the end of the stream, now that the last byte of the body is written.

    A client that has no other sign of the end (HTTP/1.0 without Content-Length, nginx
    as it is installed) would wait for the server to close the socket, which it does
    only after the body's close().
    """
    sock = _closing_socket(environ)
    if sock is None:
        return
    try:
        # Under TLS too: SSLSocket.shutdown() gives up the TLS layer, as the server
        # does a moment later. Data in the kernel's buffer is still delivered.
        sock.shutdown(socket.SHUT_WR)
    except Exception as error:  # the client is gone, most likely
        logger.debug("the connection could not be half-closed: %r", error)


def wait_until_closed(environ: WSGIEnvironment) -> None:
    """Wait until the server has closed the connection, for ``CLOSE_WAIT`` at most.

    For another thread than the server's: after an error of the app, the server still
    has to send its error page, and tells nobody when it has.
    """
    sock = _closing_socket(environ)
    deadline = time.monotonic() + CLOSE_WAIT
    while sock is not None and sock.fileno() != -1 and time.monotonic() < deadline:
        time.sleep(0.005)


def forget_headers(start_response: StartResponse) -> None:
    """Make a second call of the server's ``start_response`` replace the first.

    PEP 3333 says it does. gunicorn adds the new headers to the old ones, up to 27.0
    at least (http/wsgi.py, Response.start_response).
    """
    response: Any = getattr(start_response, "__self__", None)
    if type(response).__module__ == "gunicorn.http.wsgi":
        response.headers = []
        response.response_length = None


def _closing_socket(environ: WSGIEnvironment) -> Any:
    """The connection's socket, if the server closes it after this response."""
    if environ.get("SERVER_PROTOCOL") not in ("HTTP/1.0", "HTTP/1.1"):
        return None  # HTTP/2: other streams share the socket
    # werkzeug's development server always closes. Of gunicorn's workers, sync always
    # does; the others keep connections open, and say wsgi.multithread.
    if not environ.get("wsgi.multithread", True) and "gunicorn.socket" in environ:
        return environ["gunicorn.socket"]
    return environ.get("werkzeug.socket")
