"""cheroot, CherryPy's server."""

from __future__ import annotations

from .server import WaitingServer


class Cheroot(WaitingServer):
    """It calls ``close()`` (wsgi.py, Gateway.respond) before it sends the end of a
    chunked body (server.py, HTTPRequest.respond), and before the next request."""

    # Gateway.respond() fails without a head before it comes to close().
    needs_head_to_close = True


CHEROOT = Cheroot()
