"""cheroot, CherryPy's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server import WaitingServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse


class Cheroot(WaitingServer):
    """It calls ``close()`` (wsgi.py, Gateway.respond) before it sends the end of a
    chunked body (server.py, HTTPRequest.respond), and before the next request."""

    # Gateway.respond() fails without a head before it comes to close().
    needs_head_to_close = True

    def forget_headers(self, start_response: StartResponse) -> None:
        """It adds the new headers to the old ones, up to 11.1 at least (wsgi.py,
        Gateway.start_response)."""
        gateway: Any = getattr(start_response, "__self__", None)
        if hasattr(gateway, "remaining_bytes_out"):
            gateway.req.outheaders[:] = []
            gateway.remaining_bytes_out = None


CHEROOT = Cheroot()
