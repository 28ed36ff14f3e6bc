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
receipt   outcome.delivered, .status or .error is not what became of the response
broken    wrong bytes, a cut response, two of them, or a connection that was kept
          alive by the server's word and ended all the same; or, beside the bytes: a
          file that the kernel does not send, an app's body that is not closed once, or
          a call that does not wait until an error page is out
========  ==========================================================================
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field

from wsgi_defer._servers.half_close import CLOSE_WAIT

from ..helpers.waiting import InVainError, until
from .client import PATIENCE, Connection, Connection2, Message
from .faults import BUFFERING, CLOSING, DROPPING, READING, matches
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

CUT = "closed without a word"  # to be looked at beside what it does with no calls
SHORT = 0.6  # seconds for what is known not to come
FOLLOWS = 0.6  # seconds for what should not follow when the gate is open
TRIES = 3  # for a call that waits in vain, as a busy machine may make it
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


def measure(server, shape, protocol, patience=PATIENCE, *, calls=True, known="ok"):
    """Send one request of that shape and judge it.

    ``calls``: whether it defers. ``known``: the faults that it is known to have. They
    are seen soon: the gate does not open. All else gets the time that a busy machine
    may take.
    """
    for _ in range(TRIES):
        probe = _Probe(server, shape, protocol, patience, calls, known.split())
        try:
            if shape == "big_reset":
                probe.go_away()
            else:
                probe.exchange()
        finally:
            probe.open_gate()
        if calls:
            probe.count_calls()
        if not probe.waited_in_vain:
            break
    return probe.cell


def read_until(connection, message, true, deadline):
    """Read until it is so, or the message is complete, or time is up."""
    while not (message.complete or message.eof or true()):
        now = time.monotonic()
        if now > deadline:
            return
        connection.read(message, min(deadline, now + 0.1))


def is_no_response(message):
    """Whether these bytes, of HTTP/1, are not the first ones of a response."""
    begin = bytes(getattr(message, "data", b"")[:5])
    return not b"HTTP/".startswith(begin)


class _Probe:
    """The steps of one measurement."""

    def __init__(self, server, shape, protocol, patience, calls, known):
        self.server, self.shape, self.protocol = server, shape, protocol
        self.patience, self.calls, self.known = patience, calls, known
        self.method = "HEAD" if shape in HEADS else "GET"
        self.path = "big" if shape in BIG else HEADS.get(shape, shape)
        key = f"{self.path}-{next(NUMBERS)}"
        self.cell = Cell(key=key)
        self.target = f"/{self.path}?key={key}&calls={int(calls)}"
        self.status = None  # of the response
        self.sent, self.waited_in_vain = time.time(), False

    def open_gate(self):
        """Let the call go on."""
        (self.server.root / f"{self.cell.key}.gate").touch()

    def soon(self, fault):
        """The time at which patience ends, and that is the fault."""
        if fault in self.known:
            return time.monotonic() + SHORT
        return time.monotonic() + self.patience

    def connect(self):
        """A connection that speaks the protocol of this cell."""
        kind = Connection2 if self.protocol == "h2" else Connection
        return kind(self.server)

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
                connection.read(message, self.soon("late"), head_only=True)
            else:
                connection.receive(1000)
            connection.reset()

    def exchange(self):
        """The request, what the client has while the call waits, and all the rest."""
        with self.connect() as connection:
            message = self.request(connection, self.method, self.target)
            if self.shape == "big_late":
                time.sleep(0.3)  # not a hope: the buffers fill, or the test is weaker
            connection.read(message, self.soon("late"))
            if not message.complete and not message.eof:
                self.cell.fault("late")
            elif message.complete and not message.eof:
                self.go_on(connection, message)
            elif self.protocol == "keep" and not (
                message.head and message.announces_close
            ):
                self.cell.notes.append(CUT)
            if self.calls and self.log("done"):
                self.cell.fault("broken", "the call did not wait at its gate")
            self.open_gate()
            if self.cell.faults and (self.calls or self.known == ["ok"]):
                self.read_on(connection, message)
        if message.head is not None:
            self.status = message.status
        if wrong := self.what_is_wrong(message):
            self.cell.fault("broken", wrong)

    def go_on(self, connection, message):
        """What the client does with the connection, once it has the message."""
        if self.protocol in ("1.0", "close") or message.announces_close:
            connection.read(message, self.soon("eof-late"), to_eof=True)
            if not message.eof:
                self.cell.fault("eof-late")
            return
        try:
            second = self.request(
                connection, "GET", f"/list_length?key={self.cell.key}&calls=0"
            )
            read_until(
                connection, second, lambda: is_no_response(second), self.soon("blocked")
            )
        except OSError:
            message.eof = True
            self.cell.notes.append(CUT)
            return
        if second.complete or is_no_response(second):
            if not second.complete or (
                (second.status, bytes(second.body)) != (200, b"hello")
            ):
                self.cell.fault("broken", "the second response is not right")
        elif second.eof:
            message.eof = True
            self.cell.notes.append(CUT)
        else:
            self.cell.fault("blocked")

    def read_on(self, connection, message):
        """The rest of a message that came too late, now that the gate is open."""
        patience = FOLLOWS if "broken" in self.known else self.patience
        read_until(
            connection, message, lambda: not self.what_is_wrong(message),
            time.monotonic() + max(patience, FOLLOWS),
        )  # fmt: skip
        connection.read(message, time.monotonic() + SHORT)

    def what_is_wrong(self, message):
        """Why these are not the bytes that the app meant, or None."""
        drops = self.shape == "raise_middle" and matches(self.server.name, DROPPING)
        if message.head is None:
            nothing = drops and message.eof and not message.data
            return None if nothing else "no response"
        body, status = message.body, message.status
        if self.shape in RAISING:
            if self.shape == "raise_middle":
                sent = body.count(b"x")
                enough = sent == len(body) <= 2000 if drops else sent == 2000
                right = status == 200 and enough
            else:
                right = status == 500 and (message.complete or not message.eof)
            if not right or b"HTTP/1." in body:
                return f"{status}, {body[-60:]!r}"
            return None
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
            return f"{status}, {len(body)} bytes: {body[-60:]!r}"
        return None

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
        try:  # after an error, it may follow up to 3 s later
            until(lambda: self.log("outcome"), "the outcome", self.patience + 5)
        except InVainError:
            pass
        self.cell.begun = self.log("begun")
        if not self.log("done"):
            self.cell.fault("lost")
        if len(self.cell.begun) > 1:
            self.cell.fault("twice")
        for begun in self.cell.begun:
            self.judge_begun(begun)
        for outcome in self.log("outcome"):
            self.judge_outcome(outcome)
        if self.shape == "iterator" and (times := len(self.log("closed"))) != 1:
            self.cell.fault("broken", f"the app's body was closed {times} times")

    def judge_begun(self, begun):
        """What the call has seen when it began."""
        name, sendfile = self.server.name, self.server.setup.sendfile
        if self.shape in ("file", "file_length") and sendfile:
            read = self.shape == "file" and matches(name, READING)
            if begun["reads"] and not read:
                self.cell.fault("broken", f"the file was read {begun['reads']} times")
            if sendfile == "python" and begun["sendfile"] != len(FILE):
                self.cell.fault("broken", f"sendfile() sent {begun['sendfile']} bytes")
        if self.shape in RAISING and matches(name, CLOSING) and not begun["closed"]:
            self.waited_in_vain = begun["at"] - self.sent >= CLOSE_WAIT
            self.cell.fault("broken", "the call began before the connection's end")

    def judge_outcome(self, outcome):
        """What the calls were told about the response."""
        raised = self.shape in RAISING
        whole = not raised and self.shape != "big_reset"
        if outcome["delivered"] is not whole and not (
            self.shape == "big_reset" and matches(self.server.name, BUFFERING)
        ):
            self.cell.fault("receipt", f"delivered: {outcome['delivered']}")
        status = self.status
        if raised:  # what the app has said, whatever the server makes of it
            status = None if self.shape == "raise" else 200
        if outcome["status"] != status and (raised or status is not None):
            self.cell.fault("receipt", f"status: {outcome['status']}, not {status}")
        error = {"refused": "ConnectionError"}.get(self.path, "NoneType")
        if outcome["error"] != ("LookupError" if raised else error):
            self.cell.fault("receipt", f"error: {outcome['error']}")
