"""A WSGI server in ten lines: it calls, iterates and closes as PEP 3333 says."""

from __future__ import annotations

from wsgiref.util import setup_testing_defaults


def make_environ(**more):
    """A complete environ of the exact type dict."""
    environ = dict(more)
    setup_testing_defaults(environ)
    return environ


class Reply:
    """What the server got from the app: status, headers, body, and what it raised."""

    def __init__(self):
        self.status = None
        self.headers = []
        self.chunks = []
        self.starts = 0

    @property
    def body(self):
        return b"".join(self.chunks)

    def start_response(self, status, headers, exc_info=None):
        if exc_info is None and self.status is not None:
            raise AssertionError("headers already set")
        self.starts += 1
        self.status, self.headers = status, headers
        return self.chunks.append


def get(app, *, stop_after=None, environ=None):
    """Send one request. ``stop_after`` chunks, the client leaves."""
    reply = Reply()
    body = app(make_environ() if environ is None else environ, reply.start_response)
    try:
        try:
            for number, chunk in enumerate(body, 1):
                reply.chunks.append(chunk)
                if number == stop_after:
                    raise ConnectionResetError
        finally:
            if hasattr(body, "close"):
                body.close()
    except ConnectionResetError:
        pass
    return reply


def text_app(view, status="200 OK", body=(b"hello",)):
    """An app that calls ``view()``, starts the response and returns a list."""

    def app(environ, start_response):
        view()
        start_response(status, [("Content-Type", "text/plain")])
        return list(body)

    return app
