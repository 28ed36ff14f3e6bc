"""What the command prints, and that a terminal obeys none of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

from ..._runtime.report import printable
from ...errors import DeferError

WIDEST = 100  # characters of a cell in a table; ``show`` prints all of it


def complain(error: BaseException) -> None:
    """One line on stderr. What helps is the cause of "not available"."""
    text = str(error)
    if error.__cause__ is not None and isinstance(error, DeferError):
        lines = str(error.__cause__).strip().splitlines() or [""]
        text += f" ({type(error.__cause__).__name__}: {lines[0]})"
    print(f"wsgi_defer.jobs: {printable(text)}", file=sys.stderr)


def print_json(value: object) -> None:
    """For programs."""
    print(json.dumps(value, indent=2))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns below a line of titles; nothing if there are no rows."""
    if not rows:
        return
    cells = [[title.upper() for title in titles]]
    cells += [[short(printable(display(value))) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(
            f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)
        )
        print(line.rstrip())


def display(value: object) -> str:
    """A value for people: times in UTC, and "-" for what is not known."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    return "-" if value is None else str(value)


def short(cell: str) -> str:
    return cell if len(cell) <= WIDEST else cell[: WIDEST - 3] + "..."
