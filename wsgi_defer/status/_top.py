"""``python -m wsgi_defer top``: the status page in a terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from typing import Any

from ._source import EXAMPLES, Source, SourceError
from ._words import NOTHING, count, memory, safe, seconds, utc

EACH = 1.0  # seconds
# Another screen, without a cursor; and back.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
FAILURES = 10
BARS = " ▁▂▃▄▅▆▇█"


def main(arguments: list[str]) -> int:
    """Show the figures until Ctrl-C, or once; returns the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the bars, in a terminal without them
    try:
        source = Source(options.address)
        if options.once or not sys.stdout.isatty():
            print("\n".join(lines(source.read())))
        else:
            _watch(source)
    except SourceError as error:
        print(f"wsgi_defer top: {safe(error, 1000)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsgi_defer top",
        description="What the workers do, and what became of calls, from the app's "
        "status page. In a terminal, anew each second until Ctrl-C.",
    )
    parser.add_argument("address", help=f"of the page: {EXAMPLES}")
    parser.add_argument("--once", action="store_true", help="print it once, and exit")
    return parser


def _watch(source: Source) -> None:
    """Draw anew each second. Raises ``SourceError`` if the first answer fails."""
    figures = source.read()
    problem = ""
    sys.stdout.write(ENTER)
    try:
        while True:
            _draw([*([problem, ""] if problem else []), *lines(figures)])
            time.sleep(EACH)
            try:
                figures, problem = source.read(), ""
            except SourceError as error:
                problem = safe(f"{utc(time.time())} {error}", 1000)
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


def _draw(text: list[str]) -> None:
    columns, rows = shutil.get_terminal_size()
    # Some terminals have no size. A line may take all of the width, but none more.
    shown = [line[: columns or 80] for line in text[: rows or 24]]
    # A line in capitals is a head.
    drawn = [f"{BOLD}{line}{PLAIN}" if line.isupper() else line for line in shown]
    body = f"{REST_OF_LINE}\n".join(drawn)
    sys.stdout.write(f"{HOME}{body}{REST_OF_LINE}{REST_OF_SCREEN}")
    sys.stdout.flush()


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """The text for figures as of ``?format=json``."""
    yield from _summary(figures, figures["totals"])
    yield ""
    yield from _table(
        "PID, STATE, SINCE#, CALL, WAITING#, REQUESTS#, MEMORY#, LAST MINUTE",
        [_worker(worker, figures["taken_at"]) for worker in figures["workers"]],
    )
    if figures["calls"]:
        yield ""
        yield from _table(
            "CALL, FINISHED#, FAILED#, SKIPPED#, LOST#, WAITING#, WAITED#, 99%#, RAN#, "
            "99%#",
            [_call(call) for call in figures["calls"]],
        )
    if figures["failures"]:
        yield ""
        yield from _table(
            "FAILED AT, CALL, ERROR, DEFERRED AT, REQUEST",
            [_failure(each) for each in figures["failures"][:FAILURES]],
        )
    yield from _jobs(figures.get("jobs"))


def _summary(figures: dict[str, Any], totals: dict[str, int]) -> Iterator[str]:
    up = seconds(figures["taken_at"] - figures["started_at"])
    which = "" if figures["whole"] else " (this process only)"
    yield (
        f"{safe(figures['name'] or 'workers')}{which}, {utc(figures['taken_at'])} UTC, "
        f"up {up}"
    )
    yield (
        f"workers {totals['workers']}: {totals['idle']} idle, {totals['request']} in a "
        f"request, {totals['after_response']} after the response; "
        f"all busy {count(figures['all_busy'])} times"
    )
    yield (
        f"requests {count(figures['requests'])}; listen queue "
        f"{count(figures['queue'])}, longest {count(figures['queue_longest'])} of "
        f"{count(figures['queue_limit'])}"
    )
    yield (
        f"calls: {count(totals['waiting'])} waiting, the oldest "
        f"{seconds(figures['oldest_waiting'])}; {count(totals['finished'])} finished, "
        f"{count(totals['failed'])} failed, {count(totals['skipped'])} skipped, "
        f"{count(totals['lost'])} lost, {count(figures['slow'])} slow"
    )


def _worker(worker: dict[str, Any], now: float) -> list[str]:
    return [
        str(worker["pid"]),
        safe(worker["state"]),
        seconds(now - worker["since"]),
        safe(worker["call"]) or NOTHING,
        count(worker["waiting"]),
        count(worker["requests"]),
        memory(worker["memory"]),
        _bars(worker["minute_ms"]),
    ]


def _bars(minute: Sequence[Sequence[int]]) -> str:
    """A character for 3 seconds: how busy they were, in a request or after one."""
    groups = [minute[at : at + 3] for at in range(0, len(minute), 3)]
    busy = [sum(map(sum, group)) / (1000 * len(group)) for group in groups]
    return "".join(BARS[min(round(part * 8 + 0.4), 8)] for part in busy)


def _call(call: dict[str, Any]) -> list[str]:
    counts = ("finished", "failed", "skipped", "lost", "waiting")
    times = [call[kind][q] for kind in ("waited", "ran") for q in ("median", "p99")]
    return [
        safe(call["name"], 60),
        *(count(call[each]) for each in counts),
        *map(seconds, times),
    ]


def _failure(failure: dict[str, Any]) -> list[str]:
    return [
        utc(failure["at"]),
        *(safe(failure[each], 60) for each in ("name", "error", "origin")),
        safe(failure["request_id"]) or NOTHING,
    ]


def _jobs(jobs: dict[str, Any] | None) -> Iterator[str]:
    if jobs is None:
        return
    yield ""
    yield from map(safe, jobs["problems"])
    if jobs["counts"]:
        states = list(next(iter(jobs["counts"].values())))
        heads = ", ".join(["JOBS", *(f"{state.upper()}#" for state in states)])
        rows = [
            [safe(name, 60), *(count(of[state]) for state in states)]
            for name, of in jobs["counts"].items()
        ]
        yield from _table(heads, rows)


def _table(heads: str, rows: list[list[str]]) -> Iterator[str]:
    """Columns as wide as what is in them; those whose head ends in # to the right."""
    names = heads.split(", ")
    table = [[name.rstrip("#") for name in names], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if name.endswith("#") else cell.ljust(width)
            for name, cell, width in zip(names, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
