"""What the doctor says where there is nothing to examine, and what it advises."""

from __future__ import annotations

import socket
import threading

import pytest

from wsgi_defer.doctor._advice import Fault, change
from wsgi_defer.doctor._deployment import Deployment, NoDoctorError

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.mark.parametrize(
    "url", ["", "example.com/doctor", "ftp://example.com", "http://", "http://a:x/",
            "http://a/\r\nX: y", "http://\u00e4/"],
)  # fmt: skip
def test_no_url(url):
    """It says what one looks like."""
    with pytest.raises(NoDoctorError, match="is not a URL as https"):
        Deployment(url, TOKEN)


def answering(answer):
    """The address of a server that gives this answer to one request, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/doctor"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "token was refused"),
        (b"HTTP/1.1 301 No\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n",
         "redirects to https://x/"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "no doctor_app at this URL"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "no whole answer"),
    ],
)  # fmt: skip
def test_there_is_no_doctor(answer, message):
    """It says what there is instead."""
    with pytest.raises(NoDoctorError, match=message):
        Deployment(answering(answer), TOKEN).introduce()


FACTS = {"inline": None, "multithread": True, "gunicorn": True, "our_worker": False}


@pytest.mark.parametrize(
    ("fault", "facts", "advice"),
    [
        (Fault.NO_MIDDLEWARE, {}, "DeferMiddleware(app)"),
        (Fault.BROKEN, {}, "error logs"),
        (Fault.LATE, {}, "outermost"),
        (Fault.END_LATE, {}, "ThreadWorker"),
        (Fault.END_LATE, {"multithread": False}, "outermost"),
        (Fault.NEXT_WAITS, {"inline": True}, "take inline=True out"),
        (Fault.NEXT_WAITS, {"our_worker": True}, "inline=False"),
        (Fault.OTHERS_WAIT, {"gunicorn": False}, "inline=False"),
        (Fault.OTHERS_WAIT, {"multithread": False}, "more workers"),
        (Fault.LOST, {}, "killed"),
        (Fault.NOT_TOLD, {}, "outermost"),
        (Fault.SLOW_CLIENT, {}, "proxy_buffering on"),
        (Fault.NOT_NAMED, {}, "install(globals())"),
    ],
)
def test_what_to_change(fault, facts, advice):
    """For each fault, by what is known of the server."""
    assert advice in change(fault, FACTS | facts)
