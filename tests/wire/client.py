"""A client that speaks HTTP on a raw socket, and tells the last byte from the end."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from dataclasses import dataclass

PATIENCE = 30.0  # seconds for what should come; a machine may be busy


@dataclass
class Response:
    head: str
    body: bytes

    @property
    def status(self):
        """The number of the status line; 0 if it has none."""
        number = self.head.partition("\r\n")[0].partition(" ")[2][:3]
        return int(number) if number.isdigit() else 0

    def header(self, name):
        """The first header of that name, or None."""
        for line in self.head.splitlines()[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


class Message:
    """A response as far as it has come. Its framing says when it is complete."""

    def __init__(self, method):
        self.method = method
        self.data = bytearray()
        self.eof = False
        self._chunk = None  # where the next chunk begins
        self._head = None

    def feed(self, data):
        """Take what came; nothing is the end of the stream."""
        self.eof = not data
        self.data += data

    @property
    def head(self):
        """Status line and headers, or None as long as they are not all there."""
        if self._head is None:
            end = self.data.find(b"\r\n\r\n")
            if end >= 0:
                self._head = Response(bytes(self.data[:end]).decode("latin-1"), b"")
                self._chunk = self.start = end + 4
        return self._head

    @property
    def framed(self):
        """Whether the head tells where the body ends."""
        return self.head is not None and (
            self.method == "HEAD"
            or self.head.status in (204, 304)
            or self.head.header("transfer-encoding") == "chunked"
            or self.head.header("content-length") is not None
        )

    @property
    def end(self):
        """Where the message ends by its own framing, or None if it has not come."""
        if not self.framed:
            return None
        if self.method == "HEAD" or self.head.status in (204, 304):
            return self.start
        if self.head.header("transfer-encoding") == "chunked":
            return self._end_of_chunks()
        end = self.start + int(self.head.header("content-length"))
        return end if len(self.data) >= end else None

    def _end_of_chunks(self):
        while True:
            line = self.data.find(b"\r\n", self._chunk)
            if line < 0:
                return None
            size = int(self.data[self._chunk : line], 16)
            following = line + 2 + size + 2
            if len(self.data) < following:
                return None
            if size == 0:
                return following
            self._chunk = following

    @property
    def complete(self):
        """Whether all of it has come: by its framing, or by the end of the stream."""
        if self.framed:
            return self.end is not None
        return self.eof and self.head is not None

    @property
    def announces_close(self):
        """Whether the server says that the connection ends with this message."""
        said = (self.head.header("connection") or "").lower()
        if self.head.head.startswith("HTTP/1.0"):
            return "keep-alive" not in said
        return "close" in said

    @property
    def status(self):
        """The number of the status line."""
        return self.head.status

    @property
    def body(self):
        """What has come of the body, with the chunks undone, the framing as it is."""
        if self.method == "HEAD":
            return bytes(self.data[self.start :])
        if self.head.header("transfer-encoding") != "chunked":
            return bytes(self.data[self.start :])
        parts, at = [], self.start
        while (line := self.data.find(b"\r\n", at)) >= 0:
            size = int(self.data[at:line], 16)
            parts.append(self.data[line + 2 : line + 2 + size])
            at = line + 2 + size + 2
            if size == 0:
                parts.append(self.data[at:])  # nothing, if all is well
                break
        return b"".join(parts)


class Connection:
    """One connection. Every wait ends after ``timeout`` seconds, with an error."""

    def __init__(self, server, timeout=PATIENCE):
        unix = isinstance(server.address, str)
        self.socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.socket.settimeout(timeout)
        self.socket.connect(server.address)
        if server.tls is not None:
            self.socket = server.tls.wrap_socket(
                self.socket, server_hostname="127.0.0.1"
            )

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *error):
        """Close it."""
        self.socket.close()

    def send(self, method, target, protocol="HTTP/1.1", *headers):
        """Send the head of a request."""
        lines = [f"{method} {target} {protocol}", "Host: 127.0.0.1", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def read_to_eof(self):
        """Everything, up to the end of the stream."""
        data = b""
        while chunk := self.receive():
            data += chunk
        return data

    def receive(self, size=262144):
        """What has come; nothing at all is the end of the stream."""
        if self.socket.family == socket.AF_INET:
            # Else the kernel answers after 40 ms, and servers that write twice wait.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            return self.socket.recv(size)
        except ssl.SSLEOFError:
            # gunicorn says no TLS goodbye before it closes, with or without us.
            return b""

    def read(self, message, deadline, *, to_eof=False):
        """Read until the message is complete, or the stream ends, or time is up."""
        while not message.eof and (to_eof or not message.complete):
            left = deadline - time.monotonic()
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


class Stream:
    """A response on one stream of HTTP/2; see ``Message`` for the names."""

    framed = True
    announces_close = False

    def __init__(self):
        self.headers = {}
        self.body = bytearray()  # else 20 MB would be copied for each frame of it
        self.complete = self.eof = False

    @property
    def head(self):
        """The headers, or None as long as they are not there."""
        return self.headers or None

    @property
    def status(self):
        """The number of the status."""
        return int(self.headers[":status"])


class Connection2(Connection):
    """One connection that speaks HTTP/2, with as many streams as one likes."""

    def __init__(self, server, timeout=PATIENCE):
        from h2.connection import H2Connection

        super().__init__(server, timeout)
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.socket.sendall(self.h2.data_to_send())
        self.streams = {}

    def request(self, method, target):
        """Send a request; its stream is filled by ``read()``."""
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        self.h2.send_headers(
            number,
            [(":method", method), (":path", target), (":scheme", "https"),
             (":authority", "127.0.0.1")],
            end_stream=True,
        )  # fmt: skip
        self.socket.sendall(self.h2.data_to_send())
        return self.streams[number]

    def read(self, message, deadline, *, head_only=False):
        """Read until that stream has ended, or time is up."""
        while not message.complete and not message.eof:
            if head_only and message.head:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                data = self.receive()
            except TimeoutError:
                return
            except OSError:
                data = b""
            if not data:
                message.eof = True
                return
            for event in self.h2.receive_data(data):
                self._take(event)
            self.socket.sendall(self.h2.data_to_send())

    def _take(self, event):
        from h2 import events

        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, events.ResponseReceived):
            stream.headers = {
                _text(name): _text(value) for name, value in event.headers
            }
        elif isinstance(event, events.DataReceived):
            stream.body += event.data
            self.h2.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
        elif isinstance(event, events.StreamEnded):
            stream.complete = True
        elif isinstance(event, events.StreamReset):
            stream.eof = True


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
