"""The standard library's ``wsgiref.simple_server``."""

from __future__ import annotations

from .server import WaitingServer


class Wsgiref(WaitingServer):
    """It speaks HTTP/1.0, and closes the connection after ``close()`` (handlers.py,
    BaseHandler.finish_response)."""


WSGIREF = Wsgiref()
