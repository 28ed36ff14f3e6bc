"""werkzeug's development server, which is also that of ``flask run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .half_close import ClosingServer
from .server import is_http1
from .stack import is_closed_by, local_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PACKAGE = "werkzeug.serving"


class Werkzeug(ClosingServer):
    """It always closes the connection (serving.py, run_wsgi())."""

    socket_key = "werkzeug.socket"

    def is_out(self, start_response: StartResponse) -> bool:
        # run_wsgi() has the sent headers in a variable, which its execute() uses.
        sent = local_of(PACKAGE, "headers_sent")
        return sent is not None and is_closed_by(PACKAGE)

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """A middleware outside may have collected the body, and send it only now."""
        return is_http1(environ)

    def outlives_request(self, environ: WSGIEnvironment) -> bool:
        """Not with ``processes=``: it forks for each request, and that process leaves
        by ``os._exit()``."""
        forks = environ.get("wsgi.multiprocess") and not environ.get("wsgi.multithread")
        return not forks


WERKZEUG = Werkzeug()
