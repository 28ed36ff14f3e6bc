"""Per server: how the client learns that the response is complete.

What is known of each server was measured with raw sockets, see tests/wire. On an
unknown server nothing is done here, and the calls run in the body's ``close()``.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import _host, background
from ._drain import report_lost
from .background import Job

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger("wsgi_defer")

CLOSE_WAIT = 3.0  # seconds; gunicorn 26+ lingers for up to 2 before it closes

_hand_over: ContextVar[list[Job] | None] = ContextVar(
    "wsgi_defer.hand_over", default=None
)


def finish(environ: WSGIEnvironment, start_response: object) -> None:
    """Send the end of the stream, now that the last byte of the body is written.

    A client that has no other sign of the end (HTTP/1.0 without Content-Length, nginx
    as it is installed) would wait for the server to close the socket, which it does
    only after the body's close(). Only where the server has told the client that it
    closes the connection; one that stays open would break. And only if the response
    is out: a middleware outside may send some of it yet.
    """
    sock = _closing_socket(environ)
    if sock is None or not _response_is_out(start_response):
        return
    try:
        # Under TLS too: SSLSocket.shutdown() gives up the TLS layer, as the server
        # does a moment later. Data in the kernel's buffer is still delivered.
        sock.shutdown(socket.SHUT_WR)
    except Exception as error:  # the client is gone, most likely
        logger.debug("the connection could not be half-closed: %r", error)


def closing(environ: WSGIEnvironment) -> Callable[[], object]:
    """What waits until the server has closed the connection.

    For another thread than the server's, after an error of the app: the server still
    has to send its error page, and tells nobody when it has. gunicorn and werkzeug
    close the connection then; on other servers this does not wait. It waits for
    ``CLOSE_WAIT`` at most, from now on: so it does not matter how many are waited for,
    one after the other.
    """
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if not _is_http1(environ):
        sock = None
    return partial(_wait_until_closed, sock, time.monotonic() + CLOSE_WAIT)


def _wait_until_closed(sock: Any, deadline: float) -> None:
    while sock is not None and sock.fileno() != -1 and time.monotonic() < deadline:
        time.sleep(0.005)


def forget_headers(start_response: StartResponse) -> None:
    """Make a second call of the server's ``start_response`` replace the first.

    PEP 3333 says it does. gunicorn adds the new headers to the old ones, up to 27.0
    at least (http/wsgi.py, Response.start_response).
    """
    response: Any = getattr(start_response, "__self__", None)
    if type(response).__module__ == "gunicorn.http.wsgi":
        response.headers = []
        response.response_length = None


# Servers that name themselves in the environ, and call close() before the end of a
# body without a length, or before they take the next request on the connection.
_WAITING_SERVERS = ("gevent/", "wsgiserver/", "granian")


def somebody_would_wait(environ: WSGIEnvironment, start_response: object) -> bool:
    """Tell whether close() holds up a client on this server, in a way that nothing
    here can mend: the end of the body, or the next request on the connection."""
    if _closing_socket(environ) is not None:
        # A middleware outside may have collected the body, and send it only now.
        return not _response_is_out(start_response)
    if "gunicorn.socket" in environ:
        return True
    software = str(environ.get("SERVER_SOFTWARE", "")).lower()
    return (
        software.startswith(_WAITING_SERVERS)
        or "cheroot/" in software
        or "waitress.client_disconnected" in environ
        or "mod_wsgi.version" in environ
        or ("uwsgi.version" in environ and not _uwsgi_hook.works)
        # bjoern puts no name into the environ.
        or type(start_response).__name__ == "start_response"
    )


def goes_on(environ: WSGIEnvironment) -> bool:
    """Tell whether the process outlives the request, so that a thread of it may work.

    werkzeug's development server with ``processes=`` forks for each request, and leaves
    that process by ``os._exit()``.
    """
    forks = environ.get("wsgi.multiprocess") and not environ.get("wsgi.multithread")
    return not (forks and "werkzeug.socket" in environ)


def _response_is_out(start_response: Any) -> bool:
    return _closed_by_server() and _head_is_out(start_response)


def _closed_by_server() -> bool:
    """Tell whether the server closes the body, maybe through the ``close()`` of others.

    A middleware outside of us that is a generator closes what it has read to the end.
    Then the server has still to send the end of a chunked body, and what that one adds.
    """
    frame: Any = sys._getframe(2)
    while frame is not None and (
        _module(frame).startswith("wsgi_defer.") or frame.f_code.co_name == "close"
    ):
        frame = frame.f_back
    servers = ("gunicorn.", "werkzeug.serving")
    return frame is not None and _module(frame).startswith(servers)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _head_is_out(start_response: Any) -> bool:
    """Ask gunicorn or werkzeug. False as well if it cannot be asked, because another
    middleware has put its own function around the server's."""
    response: Any = getattr(start_response, "__self__", None)
    if type(response).__module__ == "gunicorn.http.wsgi":
        return bool(response.headers_sent)
    # werkzeug/serving.py, run_wsgi(): a function, and a variable around it.
    code = getattr(start_response, "__code__", None)
    cells = getattr(start_response, "__closure__", None)
    if code is None or cells is None:
        return False
    sent = dict(zip(code.co_freevars, cells, strict=True)).get("headers_sent")
    return sent is not None and sent.cell_contents is not None


def wants_head_to_close(environ: WSGIEnvironment) -> bool:
    """Tell a server that closes a body which raised only if it has had a head.

    cheroot's Gateway.respond() fails without one before it comes to close().
    """
    return "Cheroot/" in str(environ.get("SERVER_SOFTWARE", ""))


class NotingWrapper:
    """The server's class for files, but it is noted what each was made of.

    For bjoern, whose FileWrapper is in C, takes no attribute, and hides the file. The
    app gets the very objects of the server's class.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._last: tuple[object, tuple[Any, ...]] = (None, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body = self._kind(*args, **kwargs)
        self._last = (body, args)
        return body

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def made_of(self, body: object) -> tuple[Any, ...]:
        """The arguments that made the body, if it was the last one."""
        last, self._last = self._last, (None, ())
        return last[1] if last[0] is body else ()


def note_files(environ: WSGIEnvironment) -> None:
    """Note what the app makes with bjoern's ``wsgi.file_wrapper``."""
    kind: Any = environ.get("wsgi.file_wrapper")
    if (
        type(kind) is type
        and kind.__name__ == "FileWrapper"
        and kind.__module__ == "builtins"  # in C, and without a module's name
    ):
        environ["wsgi.file_wrapper"] = NotingWrapper(kind)


def file_inside(
    environ: WSGIEnvironment, body: Any, headers: list[tuple[str, str]]
) -> tuple[Any, ...]:
    """The file and the block size that a wrapper in C was made of, if that is known.

    ``headers`` are those of a response that was held. Without a length, bjoern sends
    the file without any framing (server.c, ev_io_on_write), so it must not see it.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, NotingWrapper):
        made_of = wrapper.made_of(body)
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        return made_of if has_length else ()
    if "mod_wsgi.version" in environ:
        return getattr(body, "filelike", None), body.blksize
    return ()


def is_sendfile_body(environ: WSGIEnvironment, body: object) -> bool:
    """Tell a body that the server sends with sendfile(2) as long as it is of that very
    class."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, (type, NotingWrapper)):
        return isinstance(body, wrapper)  # type: ignore[arg-type]
    # uWSGI's is a function that returns the file itself.
    return "uwsgi.version" in environ and hasattr(body, "read")


def taker(environ: WSGIEnvironment) -> Callable[[Job], object] | None:
    """What runs the calls when the connection is closed, or free for the next request:
    a worker class of ours, or uWSGI's hook. None where there is no such thing."""
    if "gunicorn.socket" in environ and _is_http1(environ):
        jobs = _hand_over.get()
        return None if jobs is None else jobs.append
    if "uwsgi.version" in environ and _uwsgi_hook.works:
        return _uwsgi_hook.take
    return None


@contextmanager
def handed_over() -> Iterator[list[Job]]:
    """Collect the jobs of the requests that are served inside the block."""
    jobs: list[Job] = []
    token = _hand_over.set(jobs)
    try:
        yield jobs
    finally:
        _hand_over.reset(token)


def run_jobs(jobs: list[Job]) -> None:
    """Drain what was handed over, in turn. Raises gunicorn's order to stop only; what
    that cuts off is lost."""
    while jobs:
        scope, outcome, _ = jobs.pop(0)
        try:
            background.drain_here(scope, outcome)
        except BaseException:
            report_lost_jobs(jobs)
            raise


def report_lost_jobs(jobs: list[Job], *, running: bool = True) -> None:
    """The calls of these jobs will not be run, or, with ``running``, not to the end."""
    for scope, _, _ in jobs:
        report_lost(scope, _host.current.why, running=running)


class _UwsgiHook:
    """uWSGI calls ``uwsgi.after_req_hook`` when it has closed the connection, in the
    thread of the request (core/utils.c, uwsgi_close_request).

    It looks for it once, when it has imported the app, and with --mount too early. So
    the hook is used only when it was seen to be called.
    """

    placed = False
    works = False
    before: object = None

    def __init__(self) -> None:
        self._jobs = threading.local()

    def place(self) -> None:
        """Put it where uWSGI looks for it."""
        uwsgi = sys.modules.get("uwsgi")
        if uwsgi is None or self.placed:
            return
        options = getattr(uwsgi, "opt", {})
        if "http11-socket" in options or b"http11-socket" in options:
            return  # it keeps the connection, and the next request would wait
        self.before = getattr(uwsgi, "after_req_hook", None)
        uwsgi.after_req_hook = self  # type: ignore[attr-defined]
        self.placed = True

    def take(self, job: Job) -> None:
        self._jobs.__dict__.setdefault("jobs", []).append(job)

    def __call__(self) -> None:
        self.works = True
        try:
            if callable(self.before):
                self.before()
        finally:
            run_jobs(self._jobs.__dict__.get("jobs", []))


_uwsgi_hook = _UwsgiHook()


def install() -> None:
    """Ask the server, while it imports the app, for what it grants only then."""
    _uwsgi_hook.place()


def _is_http1(environ: WSGIEnvironment) -> bool:
    # Under HTTP/2, other streams share the socket and the thread.
    return environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1.1")


def _closing_socket(environ: WSGIEnvironment) -> Any:
    """The connection's socket, if the server closes it after this response."""
    if not _is_http1(environ):
        return None
    # werkzeug's development server always closes. Of gunicorn's workers, sync always
    # does; the others keep connections open, and say wsgi.multithread.
    if not environ.get("wsgi.multithread", True) and "gunicorn.socket" in environ:
        return environ["gunicorn.socket"]
    return environ.get("werkzeug.socket")
