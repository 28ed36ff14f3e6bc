"""One connection of HTTP/2, by the package h2."""

from __future__ import annotations

import ssl
from typing import Any

from h2 import events
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from .._runtime.clock import monotonic
from .connection import PATIENCE, Address, Connection


class Stream:
    """A response on one stream; see ``Message`` for the names."""

    framed = True
    announces_close = False

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()  # else 20 MB would be copied for each frame of it
        self.complete = self.eof = False

    @property
    def head(self) -> dict[str, str] | None:
        """The headers, or None as long as they are not there."""
        return self.headers or None

    def header(self, name: str) -> str | None:
        """The header of that name."""
        return self.headers.get(name.lower())

    @property
    def status(self) -> int:
        """The number of the status; 0 if none has come."""
        return int(self.headers.get(":status", 0))


class Connection2(Connection):
    """One connection that speaks HTTP/2, with as many streams as one likes."""

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        timeout: float = PATIENCE,
    ) -> None:
        super().__init__(address, tls, host, timeout)
        if self.socket.selected_alpn_protocol() != "h2":
            self.socket.close()
            raise ConnectionError("the server does not speak HTTP/2")
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.socket.sendall(self.h2.data_to_send())
        self.streams: dict[int, Stream] = {}

    def request(
        self, method: str, target: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Stream:
        """Send a request; its stream is filled by ``read()``."""
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = stream = Stream()
        head = [(":method", method), (":path", target), (":scheme", "https"),
                (":authority", self.host), *headers]  # fmt: skip
        self.h2.send_headers(number, head, end_stream=True)
        self.socket.sendall(self.h2.data_to_send())
        return stream

    def read(
        self,
        message: Any,
        deadline: float,
        *,
        to_eof: bool = False,
        head_only: bool = False,
    ) -> None:
        """Read until that stream has ended, or time is up."""
        while not message.complete and not message.eof:
            if head_only and message.head:
                return
            left = deadline - monotonic()
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
            try:
                for event in self.h2.receive_data(data):
                    self._take(event)
            except ProtocolError as error:
                raise ConnectionError(f"this is not HTTP/2: {error}") from None
            self.socket.sendall(self.h2.data_to_send())

    def _take(self, event: Any) -> None:
        stream = self.streams.get(getattr(event, "stream_id", -1))
        if stream is None:
            return
        if isinstance(event, events.ResponseReceived):
            for name, value in event.headers:
                stream.headers[_text(name)] = _text(value)
        elif isinstance(event, events.DataReceived):
            stream.body += event.data
            self.h2.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )
        elif isinstance(event, events.StreamEnded):
            stream.complete = True
        elif isinstance(event, events.StreamReset):
            stream.eof = True


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
