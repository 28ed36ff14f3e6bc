"""The promises of ``docs/response_finished.md``, each asked of a running server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .._runtime.clock import monotonic
from .._wire.connection import Connection
from .._wire.message import Message
from ._probe import PROTOCOLS, RAISING, Cell, Log, measure, until
from ._server import Server

Cells = dict[str, dict[str, Cell]]  # by shape and protocol


class Promise(NamedTuple):
    """One line of the table; ``rule`` is its number in the specification."""

    rule: int
    text: str
    kept: bool
    why: str = ""


def examine(
    server: Server, shapes: Iterable[str], patience: float
) -> tuple[list[Promise], Cells]:
    """Ask all. Without a list, there is nothing else to ask. Raises ``OSError``."""
    promises, cells = [has_a_list(server, patience)], {}
    if promises[0].kept:
        promises += of_callables(server, patience)
        for shape in shapes:
            cells[shape] = {
                protocol: measure(server, shape, protocol, patience)
                for protocol in PROTOCOLS
            }
        promises += of_cells(cells)
    return promises, cells


def get(server: Server, log: Log, how: str, patience: float) -> Message:
    """Send a request that registers what is called ``how``, and read the answer."""
    with Connection(server.address, timeout=patience) as connection:
        connection.send("GET", log.target("list_length", how), "HTTP/1.1")
        message = Message("GET")
        connection.read(message, monotonic() + patience)
    return message


def called_by(log: Log, patience: float) -> list[str]:
    """Which of the three were called, when all were, or time is up."""
    until(lambda: len(log.lines("called")) >= 3, patience)
    return [line["name"] for line in log.lines("called")]


def has_a_list(server: Server, patience: float) -> Promise:
    """The first question; without a list there are no others."""
    text = "environ has a new, empty list for each request"
    for _ in range(3):  # also after one that was used
        log = Log(server, "list")
        get(server, log, "three", patience)
        called_by(log, patience)
        began = log.lines("began")
        if not began:
            return Promise(1, text, False, "the app was not called")
        if not began[0]["list"]:
            return Promise(1, text, False, "there is none")
        if began[0]["length"] != 0:
            return Promise(1, text, False, f"it has {began[0]['length']} entries")
    return Promise(1, text, True)


def of_callables(server: Server, patience: float) -> list[Promise]:
    """What becomes of several of one request."""
    three = Log(server, "three")
    get(server, three, "three", patience)
    called = called_by(three, patience)
    raising = Log(server, "raising")
    second = what_follows(server, raising, patience)
    after = called_by(raising, patience)
    what = f"called were {', '.join(called) or 'none'}"
    return [
        Promise(
            5,
            "a function, a partial and an object are called, each once",
            sorted(called) == ["first", "second", "third"],
            what,
        ),
        Promise(
            7,
            "the last one is called first",
            called == ["third", "second", "first"],
            what,
        ),
        Promise(
            13,
            "one that raises keeps no other from being called",
            after == ["third", "raising", "first"],
            f"called were {', '.join(after) or 'none'}",
        ),
        Promise(13, "one that raises leaves the connection alone", not second, second),
    ]


def what_follows(server: Server, log: Log, patience: float) -> str:
    """What is wrong on the connection when a callable has raised, or nothing."""
    message, second = Message("GET"), Message("GET")
    with Connection(server.address, timeout=patience) as connection:
        connection.send("GET", log.target("list_length", "raising"), "HTTP/1.1")
        connection.read(message, monotonic() + patience)
        called_by(log, patience)
        try:
            if not message.announces_close:
                target = log.target("list_length", "nothing")
                connection.send("GET", target, "HTTP/1.1", "Connection: close")
            connection.read(second, monotonic() + patience, to_eof=True)
        except OSError:
            return ""  # a server that closes without a word; see the table
    extra = message.data[message.end :] + second.data
    if message.announces_close or not second.data:
        return f"{bytes(extra[:60])!r} followed" if extra else ""
    right = second.status == 200 and second.body == b"hello"
    return "" if right else f"{bytes(second.data[:60])!r} followed"


def of_cells(cells: Cells) -> list[Promise]:
    """What the table of shapes says, promise by promise."""
    plain = [shape for shape in cells if shape not in (*RAISING, "big_reset")]
    return [
        _promise(5, "the arguments are right", cells, list(cells), ("wrong",), "wrong"),
        _promise(6, "each is called once", cells, plain, ("lost", "twice")),
        _promise(6, "also if the app or its body raises", cells, list(RAISING),
                 ("lost", "twice")),
        _promise(6, "also if the client has left", cells, ["big_reset"],
                 ("lost", "twice")),
        _promise(9, "the body is closed before", cells, ["iterator"], ("early",)),
        _promise(10, "the client has the response before", cells, list(cells),
                 ("late", "broken")),
        _promise(10, "the end of the stream comes before", cells, list(cells),
                 ("eof-late",)),
        _promise(10, "the next request on the connection does not wait", cells,
                 list(cells), ("blocked",)),
    ]  # fmt: skip


def _promise(
    rule: int,
    text: str,
    cells: Cells,
    shapes: list[str],
    words: tuple[str, ...],
    notes: str = "",
) -> Promise:
    broken = []
    for shape in shapes:
        for protocol, cell in cells.get(shape, {}).items():
            if not cell.kept and set(words) & set(cell.faults):
                why = f": {cell.notes[0]}" if notes and cell.notes else ""
                broken.append(f"{shape} ({protocol}){why}")
    more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    return Promise(rule, text, not broken, ", ".join(broken[:3]) + more)
