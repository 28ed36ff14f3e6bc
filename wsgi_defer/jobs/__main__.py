"""``python -m wsgi_defer.jobs``: run the workers, and see what became of jobs."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

from .._runtime.parent import end_with
from ..errors import DeferError
from ._job import Job
from ._jobs import Jobs
from ._supervisor import Supervisor
from .errors import NotSupported

PROGRAM = "python -m wsgi_defer.jobs"
LIST = ["id", "name", "state", "attempts", "enqueued_at", "finished_at"]
FAILED = ["id", "name", "attempts", "finished_at", "error"]
WIDEST = 100  # characters of a cell in a table; ``show`` prints all of it


class Refusal(Exception):  # noqa: N818 - no error of the program
    """Ends the command with one line."""


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
    top = argparse.ArgumentParser(PROGRAM, description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("target", metavar="MODULE:JOBS", type=target,
                          help="the Jobs object, such as myapp:jobs")  # fmt: skip
        made.set_defaults(run=run)
        return made

    worker = command("worker", work, "run jobs until SIGTERM; finish what runs")
    worker.add_argument("--processes", type=positive, default=1, metavar="N",
                        help="how many jobs run at the same time (1)")  # fmt: skip
    worker.add_argument("--slot", type=int, help=argparse.SUPPRESS)
    worker.add_argument("--supervisor", type=int, help=argparse.SUPPRESS)
    for name, text in (
        ("list", "the latest jobs"),
        ("failed", "the latest jobs that have failed"),
    ):
        listing = command(name, show_list, text)
        listing.set_defaults(columns=FAILED if name == "failed" else LIST)
        listing.add_argument("--limit", type=positive, default=50, metavar="N",
                             help="how many, at most (50)")  # fmt: skip
        listing.add_argument("--json", action="store_true", help="for programs")
    show = command("show", show_one, "all that is known of one job")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="for programs")
    again = command("retry", retry, "queue failed jobs again")
    again.add_argument("ids", metavar="ID", nargs="+")
    clearing = command("clear", clear, "forget jobs that were done long ago")
    clearing.add_argument("--days", type=float, required=True, metavar="N",
                          help="done more than so many days ago")  # fmt: skip
    return top


def target(text: str) -> str:
    module, separator, name = text.partition(":")
    if not (module and separator and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not like myapp:jobs")
    return text


def positive(text: str) -> int:
    number = int(text)  # argparse explains the ValueError
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def load(path: str) -> Jobs:
    """The ``Jobs`` of MODULE:NAME; the module may be in the current directory."""
    module, _, name = path.partition(":")
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f", in {where.filename}, line {where.lineno}"
        if where.filename.startswith("<frozen importlib"):
            at = ""
        raise Refusal(
            f"cannot import {module}: {type(error).__name__}: {error}{at}"
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refusal(f"{module} has no {name}") from None
    if not isinstance(found, Jobs):
        raise Refusal(f"{path} is no Jobs object, but a {type(found).__name__}")
    return found


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
    if options.slot is None:
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
    width = max(map(len, vars(job)))
    for name, value in vars(job).items():
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
    try:
        count = jobs.clear(options.days * 24 * 3600)
    except ValueError:
        raise Refusal(f"--days takes 0 or more, not {options.days}") from None
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


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    sys.exit(main())
