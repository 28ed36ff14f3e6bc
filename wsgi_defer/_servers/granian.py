"""granian's WSGI interface."""

from __future__ import annotations

from .server import WaitingServer


class Granian(WaitingServer):
    """Without a length, its iterator calls ``close()`` before it ends the body
    (wsgi.py, ResponseIterWrap.close). It never closes a list."""


GRANIAN = Granian()
