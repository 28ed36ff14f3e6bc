"""The commands, and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from ..._runtime.report import printable
from .._asking import MOST_LISTED
from .._job import STATES, check_name
from .._target import is_name, parse
from . import asking
from .worker import work

PROGRAM = "python -m wsgi_defer.jobs"
ABOUT = "Run the workers, and see what became of jobs."
MOST_PROCESSES = 1000
MOST_THREADS = 1000
MOST_DAYS = 1_000_000


def parser(
    program: str = PROGRAM, takes_target: bool = True
) -> argparse.ArgumentParser:
    """The commands and their options."""
    top = Parser(program, description=ABOUT)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        if takes_target:
            made.add_argument("target", metavar="MODULE:JOBS", type=target,
                              help="the Jobs object, such as shop:jobs, or what "
                                   "makes its app: shop:create_app()")  # fmt: skip
        made.add_argument("--import", dest="imports", action="append", default=[],
                          metavar="MODULE", type=module,
                          help="import this one, too, which has handlers; may be "
                               "given several times")  # fmt: skip
        made.set_defaults(run=run)
        return made

    add_worker(command("worker", work, "run jobs until SIGTERM; finish what runs"))
    asked = [
        listing := command("list", asking.show_list, "the latest jobs"),
        failed := command("failed", asking.show_failed,
                          "the latest jobs that have failed"),
        show := command("show", asking.show_one, "all that is known of one job"),
        count := command("count", asking.count, "how many jobs are in each state"),
        cancel := command("cancel", asking.cancel, "have jobs that wait never run"),
        retry := command("retry", asking.retry, "queue failed jobs again"),
        schedule := command("schedule", asking.schedule, "the next times of each job "
                            "that is due again and again"),
        clear := command("clear", asking.clear, "forget jobs that ended long ago"),
    ]  # fmt: skip
    for each in asked:
        each.add_argument("--json", action="store_true", help="for programs")
    for each in (listing, failed):
        each.add_argument("--limit", type=whole(1, MOST_LISTED), default=50,
                          metavar="N", help="how many, at most (50)")  # fmt: skip
    for each in (listing, failed, retry):
        each.add_argument("--name", type=handler, help="only jobs of that handler")
    listing.add_argument("--state", choices=STATES, help="only those")
    show.add_argument("id", metavar="ID")
    count.add_argument("--by-name", action="store_true", help="a line per handler")
    cancel.add_argument("ids", metavar="ID", nargs="+")
    retry.add_argument("ids", metavar="ID", nargs="*")
    retry.add_argument("--all", action="store_true", help="all that have failed")
    schedule.add_argument("--limit", type=whole(1, 1000), default=1, metavar="N",
                          help="how many times of each (1)")  # fmt: skip
    clear.add_argument("--days", type=days, required=True, metavar="N",
                       help="ended more than so many days ago")  # fmt: skip
    return top


def add_worker(worker: argparse.ArgumentParser) -> None:
    worker.add_argument("--processes", type=whole(1, MOST_PROCESSES), default=1,
                        metavar="N",
                        help="how many processes (1)")  # fmt: skip
    worker.add_argument("--threads", type=whole(1, MOST_THREADS), default=1,
                        metavar="N",
                        help="how many jobs each runs at a time (1)")  # fmt: skip
    worker.add_argument("--quiet", action="store_true",
                        help="log warnings and errors only")  # fmt: skip
    worker.add_argument("--no-schedule", action="store_true",
                        help="leave the jobs of @jobs.every() to others")  # fmt: skip
    worker.add_argument("--reload", action="store_true",
                        help="start again if a Python file in the current directory "
                             "or below has changed; for development")  # fmt: skip
    worker.add_argument("--counts", type=int, help=argparse.SUPPRESS)
    worker.add_argument("--slot", type=whole(0, MOST_PROCESSES), help=argparse.SUPPRESS)
    worker.add_argument("--supervisor", type=int, help=argparse.SUPPRESS)


def passed_on(options: argparse.Namespace) -> list[str]:
    """What the worker's other processes are told of its options."""
    imports = [word for name in options.imports for word in ("--import", name)]
    flags = [f"--{name.replace('_', '-')}" for name in ("quiet", "no_schedule")
             if getattr(options, name)]  # fmt: skip
    return ["--processes", str(options.processes), "--threads", str(options.threads),
            *imports, *flags]  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        text = f"{message}. See {self.prog} --help"
        self.exit(2, f"wsgi_defer.jobs: {printable(text)}\n")

    def parse_args(self, *args: Any, **words: Any) -> Any:
        """Also refuse options that do not fit each other."""
        options = super().parse_args(*args, **words)
        if options.run is asking.retry:
            if options.all and options.ids:
                self.error("retry takes ids or --all, not both")
            if not (options.all or options.ids):
                self.error("retry takes the ids of jobs, or --all")
            if options.name and not options.all:
                self.error("--name goes with --all")
        return options


def target(text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def module(text: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not like shop.handlers")
    return text


def handler(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
