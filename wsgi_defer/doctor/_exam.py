"""The examination: what a client has while a call runs, and what waits for it.

A call takes some seconds. What comes sooner than that has not waited for the call,
however slow the network. What comes later may have waited: it is asked again, with a
call that takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._runtime.clock import monotonic
from ._advice import Fault, change
from ._deployment import PROTOCOLS, Deployment, new_key

SHAPES = {
    "length": "with a length", "stream": "without a length", "head": "HEAD",
    "204": "204", "file": "a file",
}  # fmt: skip
LONGER = (1, 3, 10)  # times the seconds, one after the other, while something waits
LONGEST = 3.0  # seconds that the last of these takes at least
BUFFER = 65536  # of a slow client's socket


@dataclass
class Line:
    """One line of the result. ``ok`` is None for what was not tried."""

    ok: bool | None
    text: str
    change: str = ""


def examine(
    to: Deployment,
    seconds: float,
    *,
    shapes: tuple[str, ...] = tuple(SHAPES),
    protocols: tuple[str, ...] = PROTOCOLS,
    also_stop: bool = False,
) -> Iterator[Line]:
    """Ask all. Raises ``NoDoctorError`` and ``OSError``."""
    facts, server = to.introduce()
    if not facts["scope"]:
        yield Line(False, "DeferMiddleware is not around the app, so nothing can be "
                   "deferred", change(Fault.NO_MIDDLEWARE, facts))  # fmt: skip
        return
    exam = _Exam(to, seconds, facts)
    for protocol in protocols:
        if protocol == "2" and (why := to.why_no_http2()):
            yield Line(None, f"HTTP/2: not tried; {why}")
        else:
            yield from exam.protocol(protocol, shapes)
    yield exam.another_user()
    yield from exam.of_calls()
    yield (
        exam.slow_client()
        if "nginx" in server.lower()
        else Line(
            None, "a slow client: not tried, as it is nginx that can be told to buffer"
        )
    )
    if also_stop:
        yield from exam.stop()


class _Exam:
    """What was seen so far."""

    def __init__(self, to: Deployment, seconds: float, facts: dict[str, Any]) -> None:
        self.to, self.seconds, self.facts = to, seconds, facts
        self.sure: set[Fault] = set()  # that were seen with the longest calls
        self.notes: list[list[dict[str, Any]]] = []  # of each request

    def protocol(self, protocol: str, shapes: tuple[str, ...]) -> Iterator[Line]:
        """One line for all that is well, and one for each fault."""
        seen: dict[Fault | None, tuple[list[str], float]] = {}
        for shape in shapes:
            fault, took = self.surely(partial(self.one, protocol, shape))
            before, longest = seen.get(fault, ([], 0.0))
            seen[fault] = [*before, SHAPES[shape]], max(longest, took)
        for fault, (names, took) in seen.items():
            what = f"HTTP/{protocol}, {', '.join(names)}: "
            if fault is None:
                yield Line(True, f"{what}all there after {took:.3f} s at most")
            else:
                text = f"{what}{fault.value.format(took)}"
                yield Line(False, text, change(fault, self.facts))

    def surely(
        self, measure: Callable[[float], tuple[Fault | None, float]]
    ) -> tuple[Fault | None, float]:
        """Measure until it is well, or wrong with the longest call, too."""
        for times in LONGER:
            seconds = self.seconds * times
            if times == LONGER[-1]:
                seconds = max(seconds, LONGEST)
            fault, took = measure(seconds)
            if fault is None or fault in self.sure:
                return fault, took
        if fault is not None:
            self.sure.add(fault)
        return fault, took

    def one(
        self, protocol: str, shape: str, seconds: float
    ) -> tuple[Fault | None, float]:
        """One request: its fault, if any, and after how long all was there."""
        to, key = self.to, new_key()
        method = "HEAD" if shape == "head" else "GET"
        path = "length" if shape == "head" else shape
        patience = seconds + to.patience
        with to.connect(protocol) as connection:
            began = monotonic()
            target = f"{path}?key={key}&seconds={seconds}"
            message = to.ask(connection, protocol, method, target)
            connection.read(message, began + patience)
            free = monotonic() - began
            fault = None
            if not message.complete or message.status not in (200, 204):
                return Fault.BROKEN, free
            if free >= seconds:
                fault = Fault.LATE
            elif protocol == "1.0" or message.announces_close:
                connection.read(message, began + patience, to_eof=True)
                if monotonic() - began >= seconds:
                    fault = Fault.END_LATE
            elif not message.eof:
                try:
                    second = to.ask(connection, protocol, "GET", "hello")
                    connection.read(second, began + patience)
                except OSError:  # closed between two requests, as any proxy may do
                    second = message
                if monotonic() - began >= seconds and second.complete:
                    fault = Fault.NEXT_WAITS
            took = monotonic() - began
        self.notes.append(to.wait_for(key, "ended", patience))
        return fault, took

    def another_user(self) -> Line:
        """Somebody else's request, while a call runs."""
        fault, took = self.surely(self.one_of_another)
        if fault is None:
            return Line(True, f"another user's request: answered after {took:.3f} s")
        return Line(False, fault.value.format(took), change(fault, self.facts))

    def one_of_another(self, seconds: float) -> tuple[Fault | None, float]:
        to, key = self.to, new_key()
        began = monotonic()
        to.get(f"length?key={key}&seconds={seconds}")
        asked = monotonic()
        to.get("hello")
        answered = monotonic()
        fault = None
        if asked - began >= seconds and Fault.LATE not in self.sure:
            fault = Fault.LATE  # too late to ask
        elif asked - began < seconds <= answered - began:
            fault = Fault.OTHERS_WAIT
        self.notes.append(to.wait_for(key, "ended", seconds + to.patience))
        return fault, answered - asked

    def of_calls(self) -> Iterator[Line]:
        """What the calls have noted."""
        events = [[note["event"] for note in notes] for notes in self.notes]
        lost = sum("ended" not in each for each in events)
        twice = sum(each.count("begun") > 1 for each in events)
        if lost or twice:
            text = f"of {len(events)} calls, {lost} did not end, {twice} ran twice"
            yield Line(False, text, change(Fault.LOST, self.facts))
        else:
            yield Line(True, f"{len(events)} calls: each ran once, to its end")
        told = [note for notes in self.notes for note in notes
                if note["event"] == "outcome"]  # fmt: skip
        wrong = sum(not note["delivered"] for note in told)
        if wrong:
            text = f"{wrong} responses came, and their calls were told they did not"
            yield Line(False, text, change(Fault.NOT_TOLD, self.facts))
        else:
            yield Line(True, "the calls were told that their responses arrived")

    def slow_client(self) -> Line:
        """A client that does not read must not hold up the worker."""
        to, key = self.to, new_key()
        with to.connect(buffer=BUFFER) as connection:
            to.ask(connection, "1.1", "GET", f"big?key={key}&seconds=0")
            notes = to.wait_for(key, "begun", to.patience)
        if any(note["event"] == "begun" for note in notes):
            return Line(True, "a slow client: the worker does not wait for it")
        text = Fault.SLOW_CLIENT.value.format(to.patience)
        return Line(False, text, change(Fault.SLOW_CLIENT, self.facts))

    def stop(self) -> Iterator[Line]:
        """A worker is sent TERM while a call runs."""
        to, key = self.to, new_key()
        answer = to.get(f"stop?key={key}&seconds={self.seconds}")
        if answer.status != 200:
            why = answer.body.decode(errors="replace").strip()
            yield Line(None, f"after TERM: not tried; {why}")
            return
        notes = to.wait_for(key, "ended", self.seconds + to.patience)
        if any(note["event"] == "ended" for note in notes):
            yield Line(True, "after TERM: the call that ran came to its end")
        else:
            text = "after TERM: the call that ran did not come to its end"
            yield Line(False, text, change(Fault.LOST, self.facts))
        if self.facts["hooks"]:
            yield Line(True, "after TERM: calls that are cut off are named in the log")
        else:
            text = "after TERM: calls that are cut off are not named in the log"
            yield Line(False, text, change(Fault.NOT_NAMED, self.facts))
