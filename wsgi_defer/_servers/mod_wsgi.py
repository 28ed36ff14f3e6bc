"""mod_wsgi, in Apache or in a daemon process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .server import WaitingServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class ModWsgi(WaitingServer):
    """It calls ``close()`` (wsgi_adapter.c, Adapter_run) before Apache sends the end of
    the body, or a head without a body."""

    def file_inside(
        self, environ: WSGIEnvironment, body: Any, headers: list[tuple[str, str]]
    ) -> tuple[Any, ...]:
        return getattr(body, "filelike", None), body.blksize

    def leave_request(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        """Its ``wsgi.errors`` expires; ``sys.stderr`` goes to the same log."""
        super().leave_request(environ, start_response)
        environ["wsgi.errors"] = sys.stderr


MOD_WSGI = ModWsgi()
