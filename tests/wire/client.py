"""A client that speaks HTTP on a raw socket, and tells the last byte from the end."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass


@dataclass
class Response:
    head: str
    body: bytes

    @property
    def status(self):
        return int(self.head.split()[1])

    def header(self, name):
        for line in self.head.splitlines()[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


class Connection:
    """One connection. Every wait ends after ``timeout`` seconds, with an error."""

    def __init__(self, server, timeout=8):
        unix = isinstance(server.address, str)
        self.socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.socket.settimeout(timeout)
        self.socket.connect(server.address)
        if server.tls is not None:
            self.socket = server.tls.wrap_socket(
                self.socket, server_hostname="127.0.0.1"
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def send(self, method, target, protocol="HTTP/1.1", *headers):
        lines = [f"{method} {target} {protocol}", "Host: 127.0.0.1", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def read_to_eof(self):
        """Everything, up to the end of the stream."""
        data = b""
        while chunk := self.receive():
            data += chunk
        return data

    def receive(self, size=65536):
        try:
            return self.socket.recv(size)
        except ssl.SSLEOFError:
            # gunicorn says no TLS goodbye before it closes, with or without us.
            return b""

    def reset(self):
        """Go away without a goodbye, in the middle of everything."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.socket.close()


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
