"""What is asked of a server. ``Server`` itself stands for one that nobody knows.

A server is one object without state, which ``detect.server_of()`` finds once for each
response that defers something. Its core question is ``end_stream()``. When it is asked,
the server has passed the last byte of the body to the kernel and is inside the body's
``close()``: can the client be told now that this was all, or must it wait until
``close()`` returns?

To add a server, first measure it: ``make wire`` shows what a client sees on it, for
each shape of response. Then write a file here with a subclass of ``Server`` that
overrides what is different, and add a line to ``detect``. State where each fact comes
from: the server's file and function, or the measurement.

What was measured with raw sockets is in ``tests/wire/TABLE.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..background import Drain, nothing_to_wait_for
from .spent import spend_input

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Server:
    """A server, as a response with calls sees it. This one does not know the server.

    On an unknown server, nothing is done to its connection, and the calls run inside
    ``close()``.
    """

    # A second call of start_response() can replace the head of the first, as PEP 3333
    # says. If not, a head is held for as long as calls may run before the response.
    revokes_head = True
    # It closes the body of an app that raised only if it has had a status before.
    needs_head_to_close = False

    def end_stream(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> bool:
        """Give the client the end of the stream now. True if it has it, so that nobody
        waits for the calls; False if only the return of ``close()`` gives it.

        Never half-close a connection that was announced as keep-alive: it breaks the
        next request on it.
        """
        return False

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """Where ``end_stream()`` is False: would a client wait for ``close()``? For the
        end of this response, or for an answer to the next request on the connection.
        """
        return False

    def taker(self, environ: WSGIEnvironment) -> Callable[[Drain], object] | None:
        """What runs the calls once the connection is closed, or free for its next
        request. None if the server has no such thing."""
        return None

    def after_error_page(self, environ: WSGIEnvironment) -> Callable[[], object]:
        """For the background thread, when the app has raised: what returns once the
        server has sent its error page, as far as that can be seen."""
        return nothing_to_wait_for

    def outlives_request(self, environ: WSGIEnvironment) -> bool:
        """Does the process outlive the request, so that a thread of it can work?"""
        return True

    def forget_headers(self, start_response: StartResponse) -> None:
        """Make a second call of ``start_response`` replace the headers of the first.

        PEP 3333 says it does. This is for servers that keep them.
        """

    def adds_length(self, start_response: StartResponse) -> bool:
        """Can a length be added to a head that this server has been given, or does no
        client need one?"""
        return False

    def length_adder(
        self, start_response: StartResponse
    ) -> Callable[[int], object] | None:
        """What adds it. None if the head has one, or if the server has sent it."""
        return None

    def is_end(self, answer: object) -> bool:
        """Has the app served the connection itself, as that of a WebSocket, and says so
        by what it raised, or returned in place of a body?"""
        return False

    def leave_request(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        """Take from the environ what ends with the response. Calls see the rest."""
        spend_input(environ)

    def file_inside(
        self, environ: WSGIEnvironment, body: Any, headers: list[tuple[str, str]]
    ) -> tuple[Any, ...]:
        """The file and the block size of a file wrapper that is written in C.

        They are needed to make another one, with a file that notices its end. Empty if
        they are not known, or not needed. ``headers`` are those of the response; none
        if nothing was pending when the app gave them.
        """
        return ()


class WaitingServer(Server):
    """A server on which somebody always waits for the return of ``close()``."""

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


UNKNOWN = Server()
HTTP1 = ("HTTP/1.0", "HTTP/1.1")


def is_http1(environ: WSGIEnvironment) -> bool:
    """True for HTTP/1. Under HTTP/2, other streams share the socket and the thread."""
    return environ.get("SERVER_PROTOCOL") in HTTP1


class FileClass:
    """Marks what stands for a server's class of files: ``isinstance()`` takes it."""


def is_sendfile_body(environ: WSGIEnvironment, body: object) -> bool:
    """Tell a body that the server sends with sendfile(2), as long as it is an object of
    the server's own class. Asked for every response, not only for those that defer.
    """
    wrapper: Any = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, (type, FileClass)):
        return isinstance(body, wrapper)  # type: ignore[arg-type]
    # uWSGI's is a function that returns the file itself.
    return "uwsgi.version" in environ and hasattr(body, "read")
