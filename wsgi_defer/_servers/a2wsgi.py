"""a2wsgi, which runs a WSGI app on an ASGI server such as uvicorn."""

from __future__ import annotations

from .server import Server


class A2wsgi(Server):
    """Nobody waits for ``close()``: it comes after the last message was queued for the
    event loop, in a thread of its own (wsgi.py, WSGIResponder.wsgi). The ASGI server
    then ends the response by itself.
    """

    # It sends the first head at once, and ignores a second one.
    revokes_head = False


A2WSGI = A2wsgi()
