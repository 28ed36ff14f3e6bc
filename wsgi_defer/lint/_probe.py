"""One request of the kit, judged while its callable waits at a gate.

The words for what is wrong:

========  ==========================================================================
late      the message was not complete while the callable waited
eof-late  the message was, but the end of the stream was not, where the server closes
blocked   a second request on the connection had no answer while the callable waited
lost      the callable was never called
twice     it was called more than once
early     it was called before the body was closed
wrong     it was called with something wrong
broken    wrong bytes, a cut response, two of them, or a connection that was kept
          alive by the server's word and ended all the same
========  ==========================================================================

A word in brackets: the server does so, too, if nothing is in the list.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._runtime.clock import monotonic
from .._wire.connection import Connection
from .._wire.message import Message
from ._app import BIG, FILE
from ._server import Server

BODIES = {
    "list_length": b"hello", "list": b"hello", "generator": b"hello",
    "iterator": b"hello", "lazy": b"hello", "write": b"hello", "empty": b"",
    "204": b"", "304": b"", "404": b"hello", "file_length": FILE, "file": FILE,
    "memory_file": b"hello",
}  # fmt: skip
STATUS = {"empty": 302, "204": 204, "304": 304, "404": 404}
HEADS = {"head": "list_length", "head_empty": "empty", "head_file": "file_length"}
RAISING = ("raise", "raise_late", "raise_first", "raise_middle")
SHAPES = (*BODIES, *HEADS, "big_reset", "big_late", *RAISING)
# HTTP/1.0; HTTP/1.1 with "Connection: close"; HTTP/1.1 with a second request on the
# same connection.
PROTOCOLS = ("1.0", "close", "keep")
CUT = "cut"  # closed without a word: a fault unless it is the server's own
FOLLOWS = 0.3  # seconds for what should not follow
_numbers = itertools.count(1)


@dataclass
class Cell:
    """What was seen of one shape by one protocol."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own: bool = False  # the server has these faults without callables, too
    absent: bool = False  # the server cannot send this shape

    @property
    def kept(self) -> bool:
        """Whether the convention is not to blame for anything."""
        return self.own or not self.faults

    def fault(self, word: str, note: str = "") -> None:
        """Add a fault, once."""
        if word not in self.faults:
            self.faults.append(word)
        if note:
            self.notes.append(note)

    def __str__(self) -> str:
        if self.absent:
            return "n/a"
        words = " ".join(self.faults)
        return f"({words})" if self.own and words else words or "ok"


def measure(server: Server, shape: str, protocol: str, patience: float) -> Cell:
    """Send that request and judge it. ``patience``: seconds until a fault is one.

    A fault is measured twice, as a machine may be busy.
    """
    cell = Probe(server, shape, protocol, patience).cell
    if not cell.faults:
        return cell
    without = Probe(server, shape, protocol, patience, how="nothing").cell
    if CUT in without.faults and CUT in cell.faults:
        cell.faults.remove(CUT)
    if set(cell.faults) <= set(without.faults):
        cell.own = True
        return cell
    cell = Probe(server, shape, protocol, patience).cell
    if CUT in cell.faults:
        cell.faults.remove(CUT)
        if CUT not in without.faults:
            cell.fault("broken", "the connection was cut")
    cell.own = set(cell.faults) <= set(without.faults)
    return cell


def until(condition: Callable[[], Any], patience: float) -> Any:
    """Wait until that is true, at most so many seconds; return what it was."""
    deadline = monotonic() + patience
    while True:
        late = monotonic() > deadline
        if (found := condition()) or late:
            return found
        time.sleep(0.005)


class Log:
    """What the app has logged of one request."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.key = f"{name}-{next(_numbers)}"

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The lines of that event, so far."""
        try:
            text = (self.server.root / f"{self.key}.log").read_text()
        except FileNotFoundError:
            return []
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def events(self) -> list[str]:
        """All events, in order."""
        try:
            text = (self.server.root / f"{self.key}.log").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(x)["event"] for x in text.splitlines() if x.endswith("}")]

    def open_gate(self) -> None:
        """Let the callable go on."""
        (self.server.root / f"{self.key}.gate").touch()

    def target(self, path: str, how: str) -> str:
        """Of a request."""
        return f"/{path}?key={self.key}&how={how}"


class Probe:
    """One measurement; ``cell`` has what came of it."""

    def __init__(
        self,
        server: Server,
        shape: str,
        protocol: str,
        patience: float,
        how: str = "gate",
    ) -> None:
        self.shape, self.protocol, self.patience = shape, protocol, patience
        self.how = how
        self.method = "HEAD" if shape in HEADS else "GET"
        self.path = "big" if shape.startswith("big") else HEADS.get(shape, shape)
        self.server, self.log, self.cell = server, Log(server, self.path), Cell()
        try:
            with Connection(server.address, timeout=patience) as connection:
                self.exchange(connection)
        except OSError as error:
            self.cell.fault("broken", str(error))
        except ValueError:
            self.cell.fault("broken", "a chunk or a length is no number")
        finally:
            self.log.open_gate()
        if self.log.lines("absent"):
            self.cell = Cell(absent=True)
        elif how == "gate":
            self.judge_calls()

    def request(self, connection: Connection, method: str, target: str) -> Message:
        """Send a request; returns the message that its answer goes to."""
        version = "1.0" if self.protocol == "1.0" else "1.1"
        headers = ["Connection: close"] if self.protocol == "close" else []
        connection.send(method, target, f"HTTP/{version}", *headers)
        return Message(method)

    def deadline(self) -> float:
        """The time at which patience ends."""
        return monotonic() + self.patience

    def exchange(self, connection: Connection) -> None:
        """The request, what the client has while the callable waits, and the rest."""
        target = self.log.target(self.path, self.how)
        message = self.request(connection, self.method, target)
        if self.shape == "big_reset":
            connection.receive(1000)
            connection.reset()
            return
        if self.shape == "big_late":
            time.sleep(FOLLOWS)  # no hope in it: buffers fill up, or the test is weaker
        connection.read(message, self.deadline())
        if not message.complete and not message.eof:
            self.cell.fault("late")
        elif message.complete and not message.eof:
            self.go_on(connection, message)
        elif self.protocol == "keep" and not message.announces_close:
            self.cell.fault(CUT)
        if self.how == "gate" and self.log.lines("done"):
            self.cell.fault("wrong", "the callable did not wait at its gate")
        self.log.open_gate()
        if "late" in self.cell.faults:
            connection.read(message, self.deadline())
        if wrong := self.what_is_wrong(message):
            self.cell.fault("broken", wrong)

    def go_on(self, connection: Connection, message: Message) -> None:
        """What the client does with the connection, once it has the message."""
        if self.protocol != "keep" or message.announces_close:
            connection.read(message, self.deadline(), to_eof=True)
            if not message.eof:
                self.cell.fault("eof-late")
            return
        try:
            second = self.request(
                connection, "GET", self.log.target("list_length", "nothing")
            )
            deadline = self.deadline()
            while not (second.complete or second.eof or is_no_response(second)):
                if (now := monotonic()) > deadline:
                    break
                connection.read(second, min(deadline, now + 0.1))
        except OSError:
            self.cell.fault(CUT)
            return
        if second.complete or is_no_response(second):
            if (second.status, second.body) != (200, b"hello"):
                self.cell.fault("broken", f"after it came {bytes(second.data[:60])!r}")
        elif second.eof:
            self.cell.fault(CUT)
        else:
            self.cell.fault("blocked")

    def what_is_wrong(self, message: Message) -> str | None:
        """Why these are not the bytes that the app meant, or None."""
        if message.head is None:
            return "no response"
        body, status = message.body, message.status
        if self.shape == "raise_middle":
            right = status == 200 and body == b"x" * 2000
        elif self.shape in RAISING:
            right = status == 500 and (message.complete or not message.eof)
            right = right and b"HTTP/1." not in body
        else:
            expected = b"x" * BIG if self.path == "big" else BODIES.get(self.path, b"")
            if self.method == "HEAD":
                expected = b""
            cut = message.eof and not message.complete
            right = (
                status == STATUS.get(self.path, 200) and body == expected and not cut
            )
        return None if right else f"{status}, {len(body)} bytes: {body[-60:]!r}"

    def judge_calls(self) -> None:
        """Each must be called, once, and with what is right."""
        until(lambda: self.log.lines("called"), self.patience)
        called, events = self.log.lines("called"), self.log.events()
        if not called or "begun" not in events:
            self.cell.fault("lost")
        if len(called) > 1 or events.count("begun") > 1:
            self.cell.fault("twice")
        if self.shape == "iterator" and "closed" not in events[: events.index("begun")]:
            self.cell.fault("early")
        for facts in called[:1]:
            for wrong in what_is_wrong_with(facts, self.shape, self.path):
                self.cell.fault("wrong", wrong)


def is_no_response(message: Message) -> bool:
    """Whether these bytes are not the first ones of a response."""
    return not b"HTTP/".startswith(bytes(message.data[:5]))


def what_is_wrong_with(facts: dict[str, Any], shape: str, path: str) -> list[str]:
    """Of the arguments that a callable has got."""
    if facts["count"] != 4:
        return [f"it was called with {facts['count']} arguments"]
    wrong = []
    if not facts["same"]:
        wrong.append("the environ is not the app's")
    status = None if shape == "raise" else str(STATUS.get(path, 200))
    if status != (facts["status"] and str(facts["status"])[:3]) or (
        status and not isinstance(facts["status"], str)
    ):
        wrong.append(f"the status is {facts['status']!r}")
    if status is None and facts["headers"] != "None":
        wrong.append(f"the headers are {facts['headers']}")
    if status == "200" and "Content-Type" not in facts["headers"]:
        wrong.append(f"the headers are {facts['headers']}")
    if shape in RAISING and facts["error"] != "LookupError":
        wrong.append(f"the error is {facts['error']}")
    if shape not in (*RAISING, "big_reset") and facts["error"] is not None:
        wrong.append(f"the error is {facts['error']}")
    return wrong
