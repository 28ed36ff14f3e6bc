"""A WSGI server that has ``wsgi.response_finished`` itself, rightly or not.

``python -m tests.helpers.native_server FAULT HOST PORT APP``; the fault may be "none".
"""

from __future__ import annotations

import importlib
import sys
import traceback
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

KEY = "wsgi.response_finished"
FAULT = sys.argv[1] if __name__ == "__main__" else "none"
SHARED = []  # one list for all requests, which is a fault


class Handler(ServerHandler):
    """One request."""

    http_version = "1.0"
    error = None
    app_facts = None, None  # status and headers

    def setup_environ(self):
        """Add the list."""
        super().setup_environ()
        self.environ[KEY] = SHARED if FAULT == "shared" else []
        self.of_request = self.environ  # close() forgets the other

    def start_response(self, status, headers, exc_info=None):
        """Note those of the app, not those of an error page."""
        if exc_info is None:
            self.app_facts = status, list(headers)
        return super().start_response(status, headers, exc_info)

    def finish_response(self):
        """Send it, and note what kept it from being sent."""
        try:
            super().finish_response()
        except BaseException as error:
            self.error = error
            raise

    def log_exception(self, exc_info):
        """Note what was raised."""
        self.error = exc_info[1]
        super().log_exception(exc_info)

    def close(self):
        """The body is closed, and the connection will be."""
        if FAULT == "early":
            self.finish()
        super().close()
        if FAULT == "holding":
            self.finish()

    def finish(self):
        """Have the callables called now."""
        environ, self.of_request = self.of_request, None
        if environ is not None:
            facts = (environ[KEY], environ, *self.app_facts, self.error)
            self.request_handler.server.finished.append(facts)
            if FAULT in ("early", "holding"):
                self.request_handler.server.finish()


class RequestHandler(WSGIRequestHandler):
    """One connection, for one request."""

    def handle(self):
        """As the standard library does, with our handler."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            return
        handler = Handler(
            self.rfile, self.wfile, self.get_stderr(), self.get_environ(),
            multithread=False,
        )  # fmt: skip
        handler.request_handler = self
        handler.run(self.server.get_app())
        handler.finish()

    def log_message(self, *args):
        """Nothing."""


class Server(WSGIServer):
    """It calls what is in the list when the connection is closed."""

    finished = ()

    def shutdown_request(self, request):
        """The connection, and then the callables."""
        super().shutdown_request(request)
        self.finish()

    def finish(self):
        """Call them."""
        while self.finished:
            entries, *facts = self.finished.pop()
            if FAULT == "status":
                facts[1] = facts[1] and int(facts[1][:3])
            if FAULT == "silent" and facts[3] is not None:
                continue
            for entry in entries if FAULT == "forward" else entries[::-1]:
                for _ in range(2 if FAULT == "twice" else 1):
                    try:
                        entry(*facts)
                    except Exception:
                        traceback.print_exc()
                        if FAULT == "fragile":
                            return


if __name__ == "__main__":
    host, port, app = sys.argv[2:]
    module, _, name = app.partition(":")
    server = Server((host, int(port)), RequestHandler)
    server.finished = []
    server.set_app(getattr(importlib.import_module(module), name))
    server.serve_forever()
