"""The table: every set-up by every shape by every protocol.

``python -m tests.wire.table`` prints it; ``make wire`` does that. Several set-ups are
measured at a time, as most of the time somebody waits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from . import servers, stress
from .cell import CUT, SHAPES, SHORT, measure
from .client import PATIENCE
from .faults import OWN, expected

AT_A_TIME = 12
REQUESTS = 150  # of the stress
TRIES = 5  # to see a fault of a server's own
LETTERS = {"late": "L", "eof-late": "E", "blocked": "B", "lost": "X", "twice": "2",
           "broken": "!", "receipt": "R"}  # fmt: skip


def cells_of(name):
    """The shapes and protocols that this set-up has."""
    setup = servers.SETUPS[name]
    return [
        (shape, protocol)
        for protocol in setup.protocols
        for shape in SHAPES
        if shape not in setup.absent
    ]


def known_faults(name):
    """How many cells of that set-up are known to be wrong."""
    return sum(expected(name, *cell)[0] != "ok" for cell in cells_of(name))


def measure_setup(name, cells=None, stressed=()):
    """Start the set-up, and measure those cells of it: a dict of ``Cell``.

    ``stressed``: how connections are used in the stress that follows, see stress.py;
    a dict of its results comes second.
    """
    found = {}
    with servers.running(name) as server:
        surprises = 0
        for shape, protocol in cells_of(name) if cells is None else cells:
            # A whole set-up that has become wrong must not take minutes to say so.
            patience = SHORT if surprises > 5 else PATIENCE
            cell = measure_one(server, name, shape, protocol, patience)
            surprises += str(cell) != expected(name, shape, protocol)[0]
            found[shape, protocol] = cell
        for cell in found.values():
            # Once more, at the end of it all.
            log = server.root / f"{cell.key}.log"
            if log.exists() and log.read_text().count('"begun"') > 1:
                cell.fault("twice")
        runs = {
            how: stress.run(server, REQUESTS, keep=how == "keep", defer=True)
            for how in stressed
        }
    return found, runs


def measure_one(server, name, shape, protocol, patience=PATIENCE):
    """One cell, beside what the server does with no calls if there is a fault."""
    wanted, reason = expected(name, shape, protocol)
    cell = measure(server, shape, protocol, patience, known=wanted)
    beside = bool(cell.faults) and (wanted == "ok" or reason.startswith(OWN))
    if shape != "refused" and (beside or CUT in cell.notes):
        plain = own_cell(server, shape, protocol, patience, wanted)
        cell.own = plain.faults
        if CUT in cell.notes and CUT not in plain.notes and not plain.faults:
            cell.fault("broken", "the server keeps the connection when nothing is due")
    return cell


def own_cell(server, shape, protocol, patience, known):
    """The same request with nothing deferred.

    If it is known to be wrong, it may be so in another way, and is seen at once; but
    not if we are so late that the server has ended the connection meanwhile, as some
    do after seconds.
    """
    patience = patience if known == "ok" else SHORT
    for _ in range(1 if known == "ok" else TRIES):
        cell = measure(server, shape, protocol, patience, calls=False, known=known)
        if cell.faults:
            break
    return cell


class Table:
    """The measurements of many set-ups, some at a time, each made once."""

    def __init__(self, wanted, stressed=None):
        """``wanted`` has the cells of each set-up, or None for all; ``stressed`` has
        how connections are used in its stress, if there is to be one.

        Those with the most faults come first, as these are what takes long.
        """
        stressed = stressed or {}
        self.executor = ThreadPoolExecutor(AT_A_TIME)
        self.setups = {
            name: self.executor.submit(
                measure_setup, name, wanted[name], stressed.get(name, ())
            )
            for name in sorted(wanted, key=known_faults, reverse=True)
        }

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *error):
        """Wait for the set-ups under way; the others are not begun."""
        self.executor.shutdown(cancel_futures=True)

    def cells(self, name):
        """The cells of that set-up, when they are there."""
        return self.setups[name].result()[0]

    def stress(self, name, how):
        """What came of its stress, with connections used like that."""
        return self.setups[name].result()[1][how]


def legend():
    """What the letters and columns say."""
    letters = "  ".join(f"{letter} {word}" for word, letter in LETTERS.items())
    return (
        "One letter for each protocol: HTTP/1.0, HTTP/1.1 with Connection: close, and\n"
        "HTTP/1.1 with a second request on the connection; or HTTP/2 alone.\n"
        f".  ok  {letters}  - not there"
    )


def letters(name, cells, shape):
    """The cell of the printed table: one letter for each protocol."""
    found = ""
    for protocol in servers.SETUPS[name].protocols:
        cell = cells.get((shape, protocol))
        if cell is None:
            found += "-"
        elif not cell.faults:
            found += "."
        else:
            found += LETTERS[cell.faults[0]]
    return found


def as_text(results):
    """The table, its columns numbered, as their names are long."""
    width = max(map(len, results), default=0)
    lines = [legend(), ""]
    lines += [f"{number:>4} {shape}" for number, shape in enumerate(SHAPES, 1)]
    head = " ".join(f"{number:<3}" for number in range(1, len(SHAPES) + 1))
    lines += ["", f"{'':{width}}  {head}"]
    for name, cells in results.items():
        row = " ".join(f"{letters(name, cells, shape):<3}" for shape in SHAPES)
        lines.append(f"{name:{width}}  {row}")
    return "\n".join(lines)


def as_markdown(results):
    """The table with words."""
    lines = [
        f"| set-up | {' | '.join(SHAPES)} |",
        "|---" * (len(SHAPES) + 1) + "|",
    ]
    for name, cells in results.items():
        row = [words(name, cells, shape) for shape in SHAPES]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


def words(name, cells, shape):
    """The cell of the Markdown table: ok, or the faults per protocol."""
    setup = servers.SETUPS[name]
    if shape in setup.absent:
        return "n/a"
    faults = defaultdict(list)
    for protocol in setup.protocols:
        if (shape, protocol) in cells:
            faults[str(cells[shape, protocol])].append(protocol)
    if set(faults) == {"ok"}:
        return "ok"
    return "; ".join(f"{'/'.join(each)}: {word}" for word, each in faults.items())


def reasons(results):
    """A line for each reason, with the set-ups and shapes that it is for."""
    why = defaultdict(lambda: defaultdict(list))
    for name, cells in results.items():
        for shape, reason in servers.SETUPS[name].absent.items():
            why[f"n/a: {reason}"][name].append(shape)
        for (shape, protocol), cell in cells.items():
            if cell.faults:
                reason = expected(name, shape, protocol)[1] or "NOT KNOWN"
                if shape not in why[reason][name]:
                    why[reason][name].append(shape)
    lines = []
    for reason, setups in why.items():
        lines.append(f"- {reason}")
        lines += [f"  - {name}: {', '.join(each)}" for name, each in setups.items()]
    return "\n".join(lines)


def as_faults(results):
    """The faults as entries of a dict of faults.py, set-ups that are alike together."""
    alike = defaultdict(list)
    for name, cells in results.items():
        by_word = defaultdict(list)
        for (shape, protocol), cell in cells.items():
            if cell.faults:
                by_word[str(cell), cell.own == cell.faults, protocol].append(shape)
        merged = defaultdict(list)
        for (word, own, protocol), shapes in by_word.items():
            merged[word, own, tuple(shapes)].append(protocol)
        for (word, own, shapes), protocols in merged.items():
            alike[word, own, shapes, tuple(protocols)].append(name)
    return "\n".join(
        f'    ("{" ".join(names)}", "{" ".join(shapes)}", "{" ".join(protocols)}"): '
        f'("{word}", {"OWN" if own else "PART"}),'
        for (word, own, shapes, protocols), names in alike.items()
    )


def main():
    """Measure, print, and end with 1 if a cell is not as faults.py has it."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.table")
    parser.add_argument("setups", nargs="*", default=["*"], help="names or patterns")
    parser.add_argument("--markdown", metavar="FILE", help="write it there as well")
    parser.add_argument(
        "--faults", action="store_true", help="print them for faults.py"
    )
    parser.add_argument(
        "--hasty",
        action="store_true",
        help="short waits for all: may see faults that are none",
    )
    options = parser.parse_args()
    if options.hasty:
        global PATIENCE
        PATIENCE = SHORT
    wanted = {}
    for name, setup in servers.SETUPS.items():
        if not any(fnmatchcase(name, pattern) for pattern in options.setups):
            continue
        if missing := setup.missing():
            print(f"{name}: {missing} is not installed, see `make services`")
        else:
            wanted[name] = None
    began, results, failed = time.monotonic(), {}, []
    with Table(wanted) as table:
        for name in wanted:
            try:
                results[name] = table.cells(name)
            except Exception as error:
                failed.append(name)
                print(f"{name}: {error}")
    print(as_text(results))
    print(f"\n{reasons(results)}")
    unlike = [
        f"{name}, {shape}, {protocol}: {cell}, but faults.py has {wanted_words}"
        for name, cells in results.items()
        for (shape, protocol), cell in cells.items()
        for wanted_words in [expected(name, shape, protocol)[0]]
        if (str(cell) == "ok") != (wanted_words == "ok")
    ]
    number = sum(map(len, results.values()))
    right = sum(
        not cell.faults for cells in results.values() for cell in cells.values()
    )
    print(
        f"\n{len(results)} set-ups, {number} cells: {right} ok, "
        f"{len(unlike)} not as faults.py has them; {time.monotonic() - began:.0f} s"
    )
    if options.faults:
        print(as_faults(results))
    else:
        print(*unlike, sep="\n")
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(f"{as_markdown(results)}\n\n{reasons(results)}\n")
    sys.exit(bool(unlike or failed))


if __name__ == "__main__":
    main()
