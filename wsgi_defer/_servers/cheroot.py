"""cheroot, CherryPy's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Cheroot(Server):
    """It calls ``close()`` (wsgi.py, Gateway.respond) before it sends the end of a
    chunked body (server.py, HTTPRequest.respond), and before the next request."""

    # Gateway.respond() fails without a head before it comes to close().
    needs_head_to_close = True

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


CHEROOT = Cheroot()
