"""Which server sends this response."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .a2wsgi import A2WSGI
from .bjoern import BJOERN, NotingWrapper, note_files
from .cheroot import CHEROOT
from .gevent import GEVENT
from .granian import GRANIAN
from .gunicorn import GUNICORN
from .mod_wsgi import MOD_WSGI
from .server import UNKNOWN, Server
from .uwsgi import HOOK, UWSGI
from .waitress import WAITRESS
from .werkzeug import WERKZEUG
from .wsgiref import WSGIREF

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Known by a key in the environ that only they have.
BY_KEY = {
    "gunicorn.socket": GUNICORN,
    "werkzeug.socket": WERKZEUG,
    "uwsgi.version": UWSGI,
    "mod_wsgi.version": MOD_WSGI,
    "waitress.client_disconnected": WAITRESS,
    "asgi.scope": A2WSGI,
}
# Known by a part of SERVER_SOFTWARE, in lower case.
BY_NAME = {
    "gevent/": GEVENT,
    "wsgiserver/": WSGIREF,
    "granian": GRANIAN,
    "cheroot/": CHEROOT,
}


def server_of(environ: WSGIEnvironment, start_response: StartResponse) -> Server:
    """The server that made these two."""
    for key, server in BY_KEY.items():
        if key in environ:
            return server
    software = str(environ.get("SERVER_SOFTWARE", "")).lower()
    for name, server in BY_NAME.items():
        if name in software:
            return server
    # bjoern leaves no name in the environ. The second look is for where a middleware
    # has put its own start_response around bjoern's.
    if type(start_response).__name__ == "start_response" or isinstance(
        environ.get("wsgi.file_wrapper"), NotingWrapper
    ):
        return BJOERN
    return UNKNOWN


def prepare_process() -> None:
    """Ask the server for what it grants only while it imports the app."""
    HOOK.place()


def clears_environ() -> bool:
    """Does the server use one dict for all requests, and clear it in between?"""
    return "uwsgi" in sys.modules


def prepare_request(environ: WSGIEnvironment) -> None:
    """Put into the environ what must be there before the app runs; for bjoern only."""
    note_files(environ)
