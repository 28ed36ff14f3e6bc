"""How far a running job is, as its handler tells it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._runtime import events, report
from ._notices import EachMinute

INTERVAL = 1.0  # seconds between two that are stored
LONGEST_NOTE = 200  # characters
_notices = EachMinute()


@dataclass(frozen=True)
class Progress:
    """How far a job is: ``done`` of ``total``, and a ``note``.

    The handler tells it by a call, ``job.progress(30, 100, "images")``. Of several
    calls in a second, only the first is stored. ``done`` and ``total`` are ``None`` as
    long as nothing is told.
    """

    done: float | None = None
    total: float | None = None
    note: str = ""
    tell: Callable[[Progress], None] | None = field(
        default=None, repr=False, compare=False
    )

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Tell how far the job is; for its handler.

        Raises ``NotSupported`` if the engine cannot keep it, ``ValueError`` for what
        are no numbers, and ``RuntimeError`` outside the handler. If the engine does not
        answer, that is logged, and the job goes on.
        """
        if self.tell is None:
            raise RuntimeError("only the handler of a running job tells its progress")
        for number in (done, total):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError(f"progress takes two numbers, not {number!r:.100}")
        self.tell(Progress(done, total, str(note)[:LONGEST_NOTE]))

    def __str__(self) -> str:
        if self.done is None:
            return "-"
        return f"{self.done:g} of {self.total:g}{self.note and f', {self.note}'}"

    def to_dict(self) -> dict[str, Any] | None:
        """All of it as JSON; None as long as nothing is told."""
        if self.done is None:
            return None
        return {"done": self.done, "total": self.total, "note": self.note}

    def to_text(self, attempt: int) -> str:
        """For an engine to store, beside the number of the attempt."""
        return json.dumps([attempt, self.done, self.total, self.note])


NOTHING = Progress()


def from_text(text: object, attempt: int) -> Progress:
    """What was stored as ``to_text()``; nothing if it is of another attempt."""
    try:
        number, done, total, note = json.loads(text)  # type: ignore[arg-type]
        return Progress(done, total, note) if number == attempt else NOTHING
    except (TypeError, ValueError):
        return NOTHING


class Teller:
    """Passes on what a handler tells, at most once a second."""

    def __init__(self, store: Callable[[Progress], None]) -> None:
        self._store = store
        self._last = -math.inf

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            self._store(progress)


def complain(error: Exception) -> None:
    """Log that progress was not stored, once a minute."""
    if _notices.due("progress"):
        report.log(
            events.PROGRESS_DROPPED, "the progress of jobs is not stored: %s", error,
            facts={"error": type(error).__name__},
        )  # fmt: skip
