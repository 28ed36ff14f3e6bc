"""werkzeug's development server, which is also that of ``flask run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .half_close import ClosingServer
from .server import is_http1

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Werkzeug(ClosingServer):
    """It always closes the connection (serving.py, run_wsgi())."""

    socket_key = "werkzeug.socket"
    package = "werkzeug.serving"

    def head_is_out(self, start_response: StartResponse) -> bool:
        # run_wsgi() has it in a variable around its start_response().
        code = getattr(start_response, "__code__", None)
        cells = getattr(start_response, "__closure__", None)
        if code is None or cells is None:
            return False
        sent = dict(zip(code.co_freevars, cells, strict=True)).get("headers_sent")
        return sent is not None and sent.cell_contents is not None

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """A middleware outside may have collected the body, and send it only now."""
        return is_http1(environ)

    def outlives_request(self, environ: WSGIEnvironment) -> bool:
        """Not with ``processes=``: it forks for each request, and that process leaves
        by ``os._exit()``."""
        forks = environ.get("wsgi.multiprocess") and not environ.get("wsgi.multithread")
        return not forks


WERKZEUG = Werkzeug()
