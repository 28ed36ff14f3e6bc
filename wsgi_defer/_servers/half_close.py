"""Servers that close the connection after each response, and so can half-close it.

A client that has no other sign of the end waits until the connection is closed: one
that speaks HTTP/1.0, or nginx as it is installed, if there is no Content-Length. The
server closes it only after the body's ``close()``. To shut down our side of the socket
tells the client now. That is done only where the server has announced that it closes
the connection, and only if the response is out: a middleware outside of this one may
still send some of it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .server import HTTP1, Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger("wsgi_defer")

CLOSE_WAIT = 3.0  # seconds; gunicorn 26+ lingers for up to 2 before it closes


class ClosingServer(Server):
    """A server whose connection can be found in the environ, and may be half-closed."""

    socket_key: str  # of the environ

    def connection(self, environ: WSGIEnvironment) -> Any:
        """The socket of this response alone; None under HTTP/2."""
        # is_http1(), without a frame more for each response
        http1 = environ.get("SERVER_PROTOCOL") in HTTP1
        return environ[self.socket_key] if http1 else None

    def closing_socket(self, environ: WSGIEnvironment) -> Any:
        """The connection, if the server closes it after this response; or None."""
        return self.connection(environ)

    def is_out(self, start_response: StartResponse) -> bool:
        """Whether the server has sent all of the response. False, too, if that cannot
        be seen."""
        raise NotImplementedError

    def end_stream(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> bool:
        connection = self.closing_socket(environ)
        if connection is None or not self.is_out(start_response):
            return False
        try:
            # Under TLS, too: SSLSocket.shutdown() gives up the TLS layer, as the server
            # does a moment later. Data in the kernel's buffer is still delivered.
            connection.shutdown(socket.SHUT_WR)
        except Exception as error:  # the client has left, most likely
            logger.debug("the connection could not be half-closed: %r", error)
        return True

    def after_error_page(self, environ: WSGIEnvironment) -> Callable[[], object]:
        """When the connection is closed, but at most ``CLOSE_WAIT`` seconds from now.

        From now, so that several in a row do not wait longer than one.
        """
        deadline = monotonic() + CLOSE_WAIT
        return partial(wait_until_closed, self.connection(environ), deadline)


def wait_until_closed(connection: Any, deadline: float) -> None:
    """Wait until the server has closed it, or until that monotonic time."""
    while (
        connection is not None and connection.fileno() != -1 and monotonic() < deadline
    ):
        time.sleep(0.005)
