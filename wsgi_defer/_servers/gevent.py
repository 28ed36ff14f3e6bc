"""gevent.pywsgi, gevent's own server; ``gunicorn.py`` has gunicorn's gevent worker."""

from __future__ import annotations

from .server import WaitingServer


class Gevent(WaitingServer):
    """It sends the end of a chunked body first, and calls ``close()`` before it closes
    the connection or takes its next request (pywsgi.py, run_application).

    It loses a body that has a ``__len__`` and can be iterated only once.
    """


GEVENT = Gevent()
