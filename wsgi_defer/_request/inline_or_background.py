"""Where the calls of a response run: where no client waits for them, if possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import background
from .._calls import switch
from .._servers.server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def run_calls(
    drain: background.Drain,
    server: Server,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    inline: bool | None,
    raised: bool,
) -> None:
    """Run the drain here, on the background thread, or have the server take it.

    ``inline`` is the option of the middleware. ``raised``: the app did, so the server
    has yet to send its error page, which must not wait for the calls.
    """
    scope, outcome, _ = drain
    if switch.mode is not None and switch.mode.holds:
        background.drain_here(scope, outcome)
        return
    take = server.taker(environ)
    if take is not None and inline is not False:
        take(drain)
        return
    if raised or (inline is False and server.outlives_request(environ)):
        here = False
    else:
        ended = server.end_stream(environ, start_response)
        here = ended or inline is True or not server.would_wait(environ)
    # Where the process ends with the request, no thread would come to run them.
    if here or not server.outlives_request(environ):
        background.drain_here(scope, outcome)
    else:
        background.submit(*drain)
