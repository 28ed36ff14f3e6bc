"""The standard library's ``wsgiref.simple_server``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Wsgiref(Server):
    """It speaks HTTP/1.0, and closes the connection after ``close()`` (handlers.py,
    BaseHandler.finish_response)."""

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


WSGIREF = Wsgiref()
