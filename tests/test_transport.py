"""How the end of the stream is announced, with sockets that only take notes."""

from __future__ import annotations

import socket

import pytest

from wsgi_defer import _transport


class Socket:
    """It notes shutdown(), and is closed after ``open_for`` looks."""

    def __init__(self, open_for=0, error=None):
        self.shut = []
        self.looks = open_for
        self.error = error

    def shutdown(self, how):
        self.shut.append(how)
        if self.error is not None:
            raise self.error

    def fileno(self):
        self.looks -= 1
        return 3 if self.looks >= 0 else -1


def gunicorn(sock, **more):
    return {
        "SERVER_PROTOCOL": "HTTP/1.1",
        "gunicorn.socket": sock,
        "wsgi.multithread": False,
        **more,
    }


def test_gunicorn_sync_and_werkzeug_are_half_closed():
    """These have said Connection: close."""
    for environ in (
        gunicorn(sync := Socket()),
        {"SERVER_PROTOCOL": "HTTP/1.0", "werkzeug.socket": (dev := Socket())},
    ):
        _transport.finish(environ)
    assert sync.shut == dev.shut == [socket.SHUT_WR]


@pytest.mark.parametrize(
    "more",
    [
        {"wsgi.multithread": True},  # gthread and gevent keep connections open
        {"SERVER_PROTOCOL": "HTTP/2"},
        {"SERVER_PROTOCOL": "HTTP/2.0"},
    ],
)
def test_no_other_connection_is_touched(more):
    """A kept-alive connection or an HTTP/2 stream would break."""
    _transport.finish(gunicorn(sock := Socket(), **more))
    assert sock.shut == []


def test_an_unknown_server():
    """There is nothing to do."""
    _transport.finish({})
    _transport.wait_until_closed({})
    _transport.finish({"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.multithread": False})


@pytest.mark.parametrize("error", [OSError(107, "not connected"), ValueError("odd")])
def test_a_client_that_is_gone(error):
    """Its error stays here."""
    _transport.finish(gunicorn(sock := Socket(error=error)))
    assert sock.shut == [socket.SHUT_WR]


def test_wait_until_closed(monkeypatch):
    """It looks until the server has closed, or for CLOSE_WAIT seconds."""
    sock = Socket(open_for=3)
    _transport.wait_until_closed(gunicorn(sock))
    assert sock.looks == -1
    monkeypatch.setattr(_transport, "CLOSE_WAIT", 0.01)
    _transport.wait_until_closed(gunicorn(Socket(open_for=10**9)))


def test_forget_headers():
    """gunicorn's response forgets them; other servers replace them by themselves."""
    from gunicorn.http.wsgi import Response

    response = Response.__new__(Response)
    response.headers = [("Content-Length", "5")]
    response.response_length = 5
    _transport.forget_headers(response.start_response)
    assert (response.headers, response.response_length) == ([], None)
    _transport.forget_headers(lambda status, headers: None)
