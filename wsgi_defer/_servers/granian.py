"""granian's WSGI interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Granian(Server):
    """Without a length, its iterator calls ``close()`` before it ends the body
    (wsgi.py, ResponseIterWrap.close). It never closes a list."""

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


GRANIAN = Granian()
