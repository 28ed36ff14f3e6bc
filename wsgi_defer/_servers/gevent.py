"""gevent.pywsgi, gevent's own server; ``gunicorn.py`` has gunicorn's gevent worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Gevent(Server):
    """It sends the end of a chunked body first, and calls ``close()`` before it closes
    the connection or takes its next request (pywsgi.py, run_application).

    It loses a body that has a ``__len__`` and can be iterated only once.
    """

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


GEVENT = Gevent()
