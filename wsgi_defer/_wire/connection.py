"""One connection of HTTP/1, on a raw socket."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 30.0  # seconds for what should come; a machine may be busy
Address = tuple[str, int] | str  # a host and its port, or the path of a socket


class Connection:
    """One connection. Every wait ends after ``timeout`` seconds, with an error.

    ``host`` is what TLS and the Host header name; ``buffer`` the size of the kernel's
    buffer for what comes, in bytes. Raises ``OSError``.
    """

    socket: Any  # a socket, maybe one that speaks TLS

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        timeout: float = PATIENCE,
        buffer: int | None = None,
    ) -> None:
        self.host = host
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        elif buffer is None:
            self.socket = socket.create_connection(address, timeout)
        else:
            found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
            self.socket = socket.socket(found[0][0])
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.socket.settimeout(timeout)
            self.socket.connect(found[0][4])
        if tls is not None:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname=host)
            except BaseException:
                self.socket.close()
                raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.socket.close()

    def send(
        self, method: str, target: str, protocol: str = "HTTP/1.1", *headers: str
    ) -> None:
        """Send the head of a request."""
        lines = [f"{method} {target} {protocol}", f"Host: {self.host}", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_to_eof(self) -> bytes:
        """Everything, up to the end of the stream."""
        data = b""
        while chunk := self.receive():
            data += chunk
        return data

    def receive(self, size: int = 262144) -> bytes:
        """What has come; nothing at all is the end of the stream."""
        quick = getattr(socket, "TCP_QUICKACK", None)  # Linux
        if self.socket.family == socket.AF_INET and quick is not None:
            # Else the kernel answers after 40 ms, and servers that write twice wait.
            self.socket.setsockopt(socket.IPPROTO_TCP, quick, 1)
        try:
            data: bytes = self.socket.recv(size)
        except ssl.SSLEOFError:
            # gunicorn says no TLS goodbye before it closes, with or without us.
            return b""
        return data

    def read(self, message: Any, deadline: float, *, to_eof: bool = False) -> None:
        """Read until the message is complete, or the stream ends, or time is up.

        ``deadline`` is of ``time.monotonic()``.
        """
        while not message.eof and (to_eof or not message.complete):
            left = deadline - monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                data = self.receive()
            except TimeoutError:
                return
            except OSError:  # a reset is an end, too; what is missing is judged later
                data = b""
            message.feed(data)

    def reset(self) -> None:
        """Go away without a goodbye, in the middle of everything."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.socket.close()
