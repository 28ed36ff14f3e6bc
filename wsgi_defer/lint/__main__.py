"""``python -m wsgi_defer.lint --server COMMAND``: which promises does a server keep?"""

from __future__ import annotations

import argparse
import json
import sys

from .._runtime.report import printable
from ._probe import PROTOCOLS, SHAPES
from ._promises import Cells, Promise, examine
from ._server import Server, StartError

PATIENCE = 10.0  # seconds


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m wsgi_defer.lint",
        description="Start a WSGI server, and see which promises of "
        "wsgi.response_finished it keeps; see docs/response_finished.md. Exit status: "
        "0 if all are kept, 1 if one is not, 2 if the server could not be tested.",
    )
    made.add_argument(
        "--server", required=True, metavar="COMMAND",
        help='how to start it, such as "gunicorn -b {bind} {app}"; {host} and {port} '
        "are the parts of {bind}",
    )  # fmt: skip
    made.add_argument(
        "--native", action="store_true",
        help="test the server's own list, without DeferMiddleware",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=SHAPES, metavar="SHAPE",
        help="of responses, instead of all: " + ", ".join(SHAPES),
    )  # fmt: skip
    made.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="SECONDS",
        help="that a client waits before it calls something late, or lost; more than "
        f"3, as callables may wait that long after an error; {PATIENCE:g} by default",
    )  # fmt: skip
    return made


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(argv)
    app = f"{__package__}._app:{'native' if options.native else 'app'}"
    try:
        with Server(options.server, app) as server:
            promises, cells = examine(server, options.shapes, options.patience)
    except (StartError, ValueError, OSError) as error:
        print("\n".join(map(printable, str(error).splitlines())), file=sys.stderr)
        return 2
    kept = all(promise.kept for promise in promises)
    print(as_json(options.server, promises, cells, kept) if options.json
          else as_text(promises, cells))  # fmt: skip
    return 0 if kept else 1


def as_text(promises: list[Promise], cells: Cells) -> str:
    """The table for people."""
    lines = [
        f"kept      {rule:>2}  {text}"
        if kept
        else f"BROKEN    {rule:>2}  {text} ({why})"
        for rule, text, kept, why in promises
    ]
    if cells:
        lines += ["", f"{'':12} " + " ".join(f"{each:14}" for each in PROTOCOLS)]
        lines += [
            f"{shape:12} " + " ".join(f"{row[each]!s:14}" for each in PROTOCOLS)
            for shape, row in cells.items()
        ]
        every = [cell for row in cells.values() for cell in row.values()]
        if any(cell.own and cell.faults for cell in every):
            lines.append("In brackets: the server does so with an empty list, too.")
    return "\n".join(printable(line) for line in lines)


def as_json(server: str, promises: list[Promise], cells: Cells, kept: bool) -> str:
    """The same for machines."""
    return json.dumps(
        {
            "server": server,
            "kept": kept,
            "promises": [promise._asdict() for promise in promises],
            "cells": {
                shape: {
                    protocol: {"faults": cell.faults, "own": cell.own,
                               "notes": cell.notes}
                    for protocol, cell in row.items()
                }
                for shape, row in cells.items()
            },
        },
        indent=2,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
