"""The table: every gunicorn and worker class by everything that can happen to it.

``python -m tests.life.table`` prints it; ``make life`` does that. Several cells are
measured at a time, as most of the time somebody waits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from .cell import EVENTS, ROWS, measure, missing
from .faults import CAN_FINISH, OWN, matches, own
from .gunicorns import INSTALL

AT_A_TIME = 12
HEAD = """# What becomes of deferred calls when their worker ends

Printed by `make life LIFE="--markdown FILE"`. A row is a release of gunicorn, its
worker class, and `ours` if that is of `wsgi_defer.gunicorn`; `background` is
`inline=False`. All have the hooks. `extra`: the client got more than its response.

"""


class Table:
    """The measurements of many cells, some at a time, each made once."""

    def __init__(self, wanted, **options):
        """``wanted`` has pairs of row and event."""
        self.executor = ThreadPoolExecutor(AT_A_TIME)
        self.cells = {
            (row, event): self.executor.submit(measure, row, event, **options)
            for row, event in wanted
        }

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *error):
        """Wait for the cells under way; the others are not begun."""
        self.executor.shutdown(cancel_futures=True)

    def cell(self, row, event):
        """That cell, when it is there."""
        return self.cells[row, event].result()


def legend():
    """What the numbers say."""
    return (
        "Three calls of a second: how many finished + how many the log names as lost.\n"
        "It must be three in all. The words for what is wrong are in cell.py."
    )


def words(results):
    """What the events are, and each reason of faults.py that has a cell."""
    seen = {event for _, event in results}
    events = [
        f"- `{name}`: {event.says}" for name, event in EVENTS.items() if name in seen
    ]
    return "\n".join([*events, "", *reasons(results)])


def by_row(results):
    """The words of each cell, in a dict for each row."""
    rows = defaultdict(dict)
    for (row, event), cell in results.items():
        rows[row][event] = str(cell)
    return rows


def as_text(results):
    """The table, with columns as wide as they must be."""
    rows = by_row(results)
    events = [each for each in EVENTS if any(each in row for row in rows.values())]
    lines = [["", *events]]
    lines += [
        [name, *(row.get(each, "-") for each in events)] for name, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def as_markdown(results):
    """The same for Markdown."""
    rows = by_row(results)
    events = [each for each in EVENTS if any(each in row for row in rows.values())]
    lines = [f"| | {' | '.join(events)} |", "|---" * (len(events) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(row.get(e, '-') for e in events)} |")
    return "\n".join(lines)


def reasons(results):
    """A line for each reason of faults.py that has a cell in the table."""
    for (rows, events), (what, why) in [*CAN_FINISH.items(), *OWN.items()]:
        if any(matches(row, rows) and matches(event, events) for row, event in results):
            least = f"at least {what} can finish" if isinstance(what, int) else what
            yield f"- `{events}` in `{rows}`: {least}; {why}"


def choose(patterns, rows_or_events):
    """The names that one of the patterns matches."""
    return [
        name
        for name in rows_or_events
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def main():
    """Measure, print, and end with 1 if a cell has a fault but gunicorn's own."""
    parser = argparse.ArgumentParser(prog="python -m tests.life.table")
    parser.add_argument("rows", nargs="*", default=["*"], help="names or patterns")
    parser.add_argument("--event", action="append", help="names or patterns")
    parser.add_argument("--markdown", metavar="FILE", help="write it there as well")
    parser.add_argument("--logs", metavar="FILE", help="the logs of wrong cells")
    parser.add_argument(
        "--without-hooks", action="store_true", help="see what gunicorn loses"
    )
    options = parser.parse_args()
    wanted = []
    for row in choose(options.rows, ROWS):
        if need := missing(row):
            print(f"{row}: {need} is not installed, see `make services`")
        else:
            wanted += [(row, each) for each in choose(options.event or ["*"], EVENTS)]
    began, results, broken = time.monotonic(), {}, []
    hooks = "" if options.without_hooks else INSTALL
    with Table(wanted, hooks=hooks) as table:
        for row, event in wanted:
            try:
                results[row, event] = table.cell(row, event)
            except Exception as error:
                broken.append(f"{row}, {event}: {error}")
    print(f"{legend()}\n\n{as_text(results)}\n\n{words(results)}\n")
    wrong = {
        key: cell for key, cell in results.items() if set(cell.faults) - {own(*key)}
    }
    for (row, event), cell in wrong.items():
        print(f"{row}, {event}: {cell}; {'; '.join(cell.notes)}")
    print(*broken, sep="\n")
    took = time.monotonic() - began
    print(f"{len(results)} cells, {len(wrong)} wrong; {took:.0f} s")
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(f"{HEAD}{legend()}\n\n{as_markdown(results)}\n\n")
            file.write(f"{words(results)}\n")
    if options.logs:
        with open(options.logs, "w") as file:
            for (row, event), cell in wrong.items():
                file.write(f"==== {row}, {event}: {cell}\n{cell.log}\n")
    sys.exit(bool(wrong or broken))


if __name__ == "__main__":
    main()
