"""One cell of the table: one request, judged while its deferred call waits at a gate.

The call cannot have ended before the gate is opened, so whoever has the end of the
response by then has not waited for it. No wait of the client decides anything but how
long a fault takes to be seen.

The words for what is wrong:

========  ==========================================================================
late      the message was not complete while the call waited
eof-late  the message was, but the end of the stream was not, where the server closes
blocked   a second request on the connection had no answer while the call waited
lost      the call never ran
twice     the call ran more than once
receipt   outcome.delivered is not what became of the response
broken    wrong bytes, a cut response, two of them, or a connection that was kept
          alive by the server's word and ended all the same
========  ==========================================================================
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field

from .client import Connection, Connection2, Message
from .servers import FILE

BODIES = {
    "list_length": b"hello", "list": b"hello", "generator": b"hello",
    "iterator": b"hello", "lazy": b"hello", "write": b"hello", "empty": b"",
    "204": b"", "304": b"", "404": b"hello", "file_length": FILE, "file": FILE,
    "memory_file": b"hello",
}  # fmt: skip
STATUS = {"empty": 302, "204": 204, "304": 304, "404": 404, "refused": 503}
HEADS = {"head": "list_length", "head_empty": "empty", "head_file": "file_length"}
BIG = ["big_reset", "big_late"]  # the client goes away, or reads late
RAISING = ["raise", "raise_late", "raise_first", "raise_middle"]
SHAPES = [*BODIES, *HEADS, *BIG, *RAISING, "refused"]

PATIENCE = 8.0  # seconds for what should come; a machine may be busy
CUT = "closed without a word"  # to be looked at beside what it does with no calls
SHORT = 0.6  # seconds for what is known not to come
NUMBERS = itertools.count()


@dataclass
class Cell:
    """What was seen: the faults, and a few words on each for the reader."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    begun: list[dict] = field(default_factory=list)
    key: str = ""
    own: list[str] | None = None  # the faults of the same request with no calls

    def fault(self, word, note=""):
        """Add a fault, once."""
        if word not in self.faults:
            self.faults.append(word)
        if note:
            self.notes.append(note)

    def __str__(self):
        """The faults, or ok."""
        return " ".join(self.faults) or "ok"


def measure(server, shape, protocol, patience=PATIENCE, *, calls=True):
    """Send one request of that shape and judge it. ``calls``: whether it defers."""
    probe = _Probe(server, shape, protocol, patience, calls)
    try:
        if shape == "big_reset":
            probe.go_away()
        else:
            probe.exchange()
    finally:
        probe.open_gate()
    if calls:
        probe.count_calls()
    return probe.cell


class _Probe:
    """The steps of one measurement."""

    def __init__(self, server, shape, protocol, patience, calls):
        self.server, self.shape, self.protocol = server, shape, protocol
        self.patience, self.calls = patience, calls
        self.method = "HEAD" if shape in HEADS else "GET"
        self.path = "big" if shape in BIG else HEADS.get(shape, shape)
        key = f"{self.path}-{next(NUMBERS)}"
        self.cell = Cell(key=key)
        self.target = f"/{self.path}?key={key}&calls={int(calls)}"

    def open_gate(self):
        """Let the call go on."""
        (self.server.root / f"{self.cell.key}.gate").touch()

    def soon(self):
        """The time at which patience ends."""
        # 20 MB in the frames of a client in Python, and of a server that is still cold.
        slow = self.protocol == "h2" and self.shape == "big_late"
        return time.monotonic() + (6 * self.patience if slow else self.patience)

    def connect(self):
        """A connection that speaks the protocol of this cell."""
        kind = Connection2 if self.protocol == "h2" else Connection
        return kind(self.server, timeout=max(self.patience, 5))

    def request(self, connection, method, target):
        """Send a request; returns the message that its answer goes to."""
        if self.protocol == "h2":
            return connection.request(method, target)
        version = "1.0" if self.protocol == "1.0" else "1.1"
        headers = ["Connection: close"] if self.protocol == "close" else []
        connection.send(method, target, f"HTTP/{version}", *headers)
        return Message(method)

    def go_away(self):
        """Read a little, and reset the connection in the middle of the body."""
        with self.connect() as connection:
            message = self.request(connection, self.method, self.target)
            if self.protocol == "h2":  # the first bytes are not yet the response's
                connection.read(message, self.soon(), head_only=True)
            else:
                connection.receive(1000)
            connection.reset()

    def exchange(self):
        """The request, what the client has while the call waits, and all the rest."""
        second = None
        with self.connect() as connection:
            message = self.request(connection, self.method, self.target)
            if self.shape == "big_late":
                time.sleep(0.3)  # not a hope: the buffers fill, or the test is weaker
            connection.read(message, self.soon())
            if not message.complete and not message.eof:
                self.cell.fault("late")
            elif message.complete and not message.eof:
                second = self.go_on(connection, message)
            elif (
                self.protocol == "keep" and message.head and not message.announces_close
            ):
                self.cell.notes.append(CUT)
            if self.calls and self.log("done"):
                self.cell.fault("broken", "the call did not wait at its gate")
            self.open_gate()
            later = time.monotonic() + max(self.patience, 1.5)
            if self.cell.faults:
                connection.read(message, later)
                if second is not None:
                    connection.read(second, later)
        self.judge(message)

    def go_on(self, connection, message):
        """What the client does with the connection, once it has the message."""
        if self.protocol in ("1.0", "close") or message.announces_close:
            connection.read(message, self.soon(), to_eof=True)
            if not message.eof:
                self.cell.fault("eof-late")
            return None
        try:
            second = self.request(
                connection, "GET", f"/list_length?key={self.cell.key}&calls=0"
            )
            connection.read(second, self.soon())
        except OSError:
            message.eof = True
            self.cell.notes.append(CUT)
            return None
        if second.complete:
            if (second.status, bytes(second.body)) != (200, b"hello"):
                self.cell.fault("broken", "the second response is not right")
        elif second.eof:
            message.eof = True
            self.cell.notes.append(CUT)
        else:
            self.cell.fault("blocked")
        return second

    def judge(self, message):
        """Whether these are the bytes that the app meant."""
        if message.head is None:
            self.cell.fault("broken", "no response")
            return
        body, status = message.body, message.status
        if self.shape in RAISING:
            if self.shape == "raise_middle":
                right = status == 200 and body.count(b"x") == 2000
            else:
                right = status == 500 and (message.complete or not message.eof)
            if not right or b"HTTP/1." in body:
                self.cell.fault("broken", f"{status}, {body[-60:]!r}")
            return
        wanted = STATUS.get(self.path, 200)
        if self.method == "HEAD":
            expected = b""
        elif self.path == "big":
            expected = b"x" * 20_000_000
        elif self.path == "refused":
            expected = b"Service Unavailable\n"
        else:
            expected = BODIES[self.path]
        cut = message.eof and not message.complete
        if status != wanted or body != expected or cut:
            self.cell.fault("broken", f"{status}, {len(body)} bytes: {body[-60:]!r}")

    def log(self, event):
        """The lines of that event which the app has written for this request."""
        try:
            text = (self.server.root / f"{self.cell.key}.log").read_text()
        except FileNotFoundError:
            return []
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def count_calls(self):
        """The call must run, and once."""
        deadline = time.monotonic() + 6  # after an error, it may follow up to 3 s later
        while not self.log("outcome") and time.monotonic() < deadline:
            time.sleep(0.003)
        self.cell.begun = self.log("begun")
        if not self.log("done"):
            self.cell.fault("lost")
        if len(self.cell.begun) > 1:
            self.cell.fault("twice")
        whole = self.shape not in RAISING and self.shape != "big_reset"
        for outcome in self.log("outcome"):
            if outcome["delivered"] is not whole:
                self.cell.fault("receipt")
