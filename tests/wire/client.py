"""The client of these tests: that of the package, for a set-up of servers.py."""

from __future__ import annotations

from wsgi_defer._wire.connection import PATIENCE
from wsgi_defer._wire.connection import Connection as _Connection
from wsgi_defer._wire.message import Message, Response

__all__ = ["PATIENCE", "Connection", "Connection2", "Message", "Response", "parse"]


class Connection(_Connection):
    """One connection to that server."""

    def __init__(self, server, timeout=PATIENCE):
        super().__init__(server.address, server.tls, timeout=timeout)


def Connection2(server, timeout=PATIENCE):  # noqa: N802  # h2 may not be installed
    """The same, one that speaks HTTP/2."""
    from wsgi_defer._wire import http2

    return http2.Connection2(server.address, server.tls, timeout=timeout)


def parse(data):
    """Split one response; undo the chunked coding, which must be complete."""
    head, _, body = data.partition(b"\r\n\r\n")
    response = Response(head.decode(), body)
    if response.header("transfer-encoding") == "chunked":
        parts = []
        while True:
            size, _, body = body.partition(b"\r\n")
            if int(size, 16) == 0:
                assert body == b"\r\n", f"after the last chunk: {body!r}"
                break
            parts.append(body[: int(size, 16)])
            body = body[int(size, 16) + 2 :]
        response.body = b"".join(parts)
    return response
