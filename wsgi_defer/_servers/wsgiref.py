"""The standard library's ``wsgiref.simple_server``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._runtime.stop_orders import is_order_to_stop
from .server import WaitingServer
from .stack import local_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Wsgiref(WaitingServer):
    """It speaks HTTP/1.0, and closes the connection after ``close()`` (handlers.py,
    BaseHandler.finish_response)."""

    def end_stream(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> bool:
        # BaseHandler.run() gives what close() raises to handle_error(), which logs it.
        # Only what that raises ends serve_forever().
        handler: Any = local_of("wsgiref.handlers", "self")
        theirs = getattr(handler, "handle_error", None)
        if theirs is not None:
            handler.handle_error = partial(_handle_error, handler, theirs)
        return False


def _handle_error(handler: Any, theirs: Callable[[], object]) -> None:
    error = sys.exc_info()[1]
    if error is None or not is_order_to_stop(error):
        theirs()
        return
    handler.close = int  # run() calls it once more, which would raise another error
    raise error


WSGIREF = Wsgiref()
