"""``python -m wsgi_defer.jobs``: run the workers, and see what became of jobs."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from .._runtime.parent import end_with
from .._runtime.report import printable
from ..errors import DeferError
from ._job import Job
from ._jobs import MOST_LISTED, Jobs
from ._supervisor import Supervisor
from ._target import Refusal, load, parse
from .errors import NotSupported

PROGRAM = "python -m wsgi_defer.jobs"
LIST = ["id", "name", "state", "attempts", "enqueued_at", "finished_at"]
FAILED = ["id", "name", "attempts", "finished_at", "error"]
MOST_PROCESSES = 1000
MOST_DAYS = 1_000_000
WIDEST = 100  # characters of a cell in a table; ``show`` prints all of it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may be ASCII only
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.run is work and options.slot is None:
        # A stop can interrupt nothing before the supervisor has started.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os._exit(0))
    try:
        jobs = load(options.target)
        status: int = options.run(jobs, options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head(1), has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Refusal, DeferError) as error:
        complain(error)
        # Another start would not change it.
        return Supervisor.HOPELESS if is_child(options, error) else 1


def is_child(options: argparse.Namespace, error: Exception) -> bool:
    child = getattr(options, "slot", None) is not None
    return child and isinstance(error, NotSupported)


def parser() -> argparse.ArgumentParser:
    """Its commands and their options."""
    top = Parser(PROGRAM, description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("target", metavar="MODULE:JOBS", type=target,
                          help="the Jobs object, such as shop:jobs, or what "
                               "makes its app: shop:create_app()")  # fmt: skip
        made.set_defaults(run=run)
        return made

    worker = command("worker", work, "run jobs until SIGTERM; finish what runs")
    worker.add_argument("--processes", type=whole(1, MOST_PROCESSES), default=1,
                        metavar="N",
                        help="how many jobs run at the same time (1)")  # fmt: skip
    worker.add_argument("--slot", type=whole(0, MOST_PROCESSES), help=argparse.SUPPRESS)
    worker.add_argument("--supervisor", type=int, help=argparse.SUPPRESS)
    for name, text in (
        ("list", "the latest jobs"),
        ("failed", "the latest jobs that have failed"),
    ):
        listing = command(name, show_list, text)
        listing.set_defaults(columns=FAILED if name == "failed" else LIST)
        listing.add_argument("--limit", type=whole(1, MOST_LISTED), default=50,
                             metavar="N", help="how many, at most (50)")  # fmt: skip
        listing.add_argument("--json", action="store_true", help="for programs")
    show = command("show", show_one, "all that is known of one job")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="for programs")
    again = command("retry", retry, "queue failed jobs again")
    again.add_argument("ids", metavar="ID", nargs="+")
    clearing = command("clear", clear, "forget jobs that were done long ago")
    clearing.add_argument("--days", type=days, required=True, metavar="N",
                          help="done more than so many days ago")  # fmt: skip
    return top


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        text = f"{message}. See {self.prog} --help"
        self.exit(2, f"wsgi_defer.jobs: {printable(text)}\n")


def target(text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def whole(least: int, most: int) -> Callable[[str], int]:
    """Takes a whole number from the least to the most."""

    def number(text: str) -> int:
        with suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(
            f"takes a whole number from {least} to {most}, not {text[:40]!r}"
        )

    return number


def days(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= MOST_DAYS:  # not NaN
            return float(text)
    raise argparse.ArgumentTypeError(
        f"takes 0 or more, up to {MOST_DAYS}, not {text[:40]!r}"
    )


def complain(error: BaseException) -> None:
    """One line on stderr. What helps is the cause of "not available"."""
    text = str(error)
    if error.__cause__ is not None and isinstance(error, DeferError):
        lines = str(error.__cause__).strip().splitlines() or [""]
        text += f" ({type(error.__cause__).__name__}: {lines[0]})"
    print(f"wsgi_defer.jobs: {printable(text)}", file=sys.stderr)


def work(jobs: Jobs, options: argparse.Namespace) -> int:
    """Supervise the worker processes, or be one of them."""
    logging.basicConfig(
        format="%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"
    )
    if not jobs.names:
        module, _, name = options.target.partition(":")
        factory = ""
        if not name.endswith(")"):
            factory = (
                ". If an app factory does that, name the factory: "
                f"{module}:create_app()"
            )
        raise Refusal(
            f"{options.target} has no handlers, so its jobs would wait in vain. Import "
            f"the modules with its @jobs.handler(...){factory}"
        )
    if options.slot is None:
        where = jobs.engine.where()
        if where is not None:
            print(f"wsgi_defer.jobs: {printable(where)}", file=sys.stderr, flush=True)
        own = jobs.engine.own_processes
        jobs.engine.close()
        command = [sys.executable, "-m", "wsgi_defer.jobs", "worker", options.target,
                   "--processes", str(options.processes)]  # fmt: skip
        return Supervisor(command, 1 if own else options.processes).run()
    if options.supervisor is not None:
        end_with(options.supervisor, signal.SIGTERM)
    jobs.engine.work(options.slot, options.processes)
    jobs.engine.close()
    return 0


def show_list(jobs: Jobs, options: argparse.Namespace) -> int:
    ask = jobs.failed if options.columns is FAILED else jobs.recent
    found = ask(options.limit)
    if options.json:
        print(json.dumps([job.to_dict() for job in found], indent=2))
    elif found:
        print_table(options.columns, found)
    return 0


def show_one(jobs: Jobs, options: argparse.Namespace) -> int:
    job = jobs.status(options.id)
    if job is None:
        raise Refusal(f"there is no job {options.id!r}")
    if options.json:
        print(json.dumps(job.to_dict(), indent=2))
        return 0
    names = list(job.to_dict())
    width = max(map(len, names))
    for name in names:
        value = getattr(job, name)
        text = json.dumps(value) if name == "result" else display(value)
        print(f"{name:{width}}  {printable(text)}")
    return 0


def retry(jobs: Jobs, options: argparse.Namespace) -> int:
    status = 0
    for job_id in options.ids:
        try:
            jobs.retry(job_id)
        except NotSupported:
            raise
        except DeferError as error:
            complain(error)
            status = 1
        else:
            print(f"{job_id} is queued again")
    return status


def clear(jobs: Jobs, options: argparse.Namespace) -> int:
    count = jobs.clear(options.days * 24 * 3600)
    print(f"{count} jobs cleared")
    return 0


def print_table(columns: list[str], found: list[Job]) -> None:
    """Print aligned columns below a line of titles."""
    titles = [name.removesuffix("_at").upper() for name in columns]
    rows = [titles]
    for job in found:
        cells = [printable(display(getattr(job, name))) for name in columns]
        rows.append([short(cell) for cell in cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
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


if __name__ == "__main__":
    sys.exit(main())
