"""A response of HTTP/1, as far as it has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Response:
    """The status line and the headers, and maybe the body."""

    head: str
    body: bytes

    @property
    def status(self) -> int:
        """The number of the status line; 0 if it has none."""
        number = self.head.partition("\r\n")[0].partition(" ")[2][:3]
        return int(number) if number.isdigit() else 0

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        for line in self.head.splitlines()[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


class Message:
    """A response as far as it has come. Its framing says when it is complete.

    Raises ``ValueError`` where a chunk or a length is no number.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.data = bytearray()
        self.eof = False
        self.start = 0  # of the body
        self._chunk = 0  # where the next chunk begins
        self._head: Response | None = None

    def feed(self, data: bytes) -> None:
        """Take what came; nothing is the end of the stream."""
        self.eof = not data
        self.data += data

    @property
    def head(self) -> Response | None:
        """Status line and headers, or None as long as they are not all there."""
        if self._head is None:
            end = self.data.find(b"\r\n\r\n")
            if end >= 0:
                self._head = Response(bytes(self.data[:end]).decode("latin-1"), b"")
                self._chunk = self.start = end + 4
        return self._head

    def header(self, name: str) -> str | None:
        """The first header of that name; None, too, if the head has not come."""
        return None if self.head is None else self.head.header(name)

    @property
    def framed(self) -> bool:
        """Whether the head tells where the body ends."""
        return self.head is not None and (
            self.method == "HEAD"
            or self.status in (204, 304)
            or self.header("transfer-encoding") == "chunked"
            or self.header("content-length") is not None
        )

    @property
    def end(self) -> int | None:
        """Where the message ends by its own framing, or None if it has not come."""
        if not self.framed:
            return None
        if self.method == "HEAD" or self.status in (204, 304):
            return self.start
        if self.header("transfer-encoding") == "chunked":
            return self._end_of_chunks()
        end = self.start + int(self.header("content-length") or 0)
        return end if len(self.data) >= end else None

    def _end_of_chunks(self) -> int | None:
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
    def complete(self) -> bool:
        """Whether all of it has come: by its framing, or by the end of the stream."""
        if self.framed:
            return self.end is not None
        return self.eof and self.head is not None

    @property
    def announces_close(self) -> bool:
        """Whether the server says that the connection ends with this message."""
        said = (self.header("connection") or "").lower()
        if self.head is not None and self.head.head.startswith("HTTP/1.0"):
            return "keep-alive" not in said
        return "close" in said

    @property
    def status(self) -> int:
        """The number of the status line; 0 if none has come."""
        return 0 if self.head is None else self.head.status

    @property
    def body(self) -> bytes:
        """What has come of the body, with the chunks undone, the framing as it is."""
        if self.method == "HEAD" or self.header("transfer-encoding") != "chunked":
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
