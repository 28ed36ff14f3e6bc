"""What the worker command says: its first lines, its last, and how they look."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from ..._runtime import events, report
from ..._runtime.report import printable
from .._jobs import Jobs

logger = logging.getLogger("wsgi_defer")
FORMAT = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"
# By the outcome of a job, or else by the level; of the terminal's own colours.
COLOURS = {
    "done": "32",
    "again": "33",
    "failed": "31",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "31",
}


class Coloured(logging.Formatter):
    """Colours whole lines, for terminals."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = COLOURS.get(getattr(record, "wsgi_defer_outcome", record.levelno))
        return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"


def set_up(quiet: bool) -> None:
    """Let the log go to stderr, unless the app has set that up when it was imported."""
    handler = logging.StreamHandler()
    terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter((Coloured if terminal else logging.Formatter)(FORMAT))
    logging.basicConfig(handlers=[handler])
    if quiet:
        logger.setLevel(logging.WARNING)
    elif logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def introduce(jobs: Jobs, options: argparse.Namespace) -> None:
    """Say what runs here, and where the jobs are."""
    where = jobs.engine.where() or f"the jobs are at {location(jobs.given_url)}"
    report.log(
        events.JOBS_STARTED, "wsgi_defer %s, %s: %s", release(), jobs.engine.title,
        printable(where), facts={"engine": jobs.engine.title},
    )  # fmt: skip
    report.log(
        events.JOBS_SERVED, "queue %s; handlers %s; %s, %s each",
        jobs.queue, ", ".join(sorted(jobs.names)),
        counted(options.processes, "process", "processes"),
        counted(options.threads, "thread", "threads"), facts={"queue": jobs.queue},
    )  # fmt: skip
    if jobs.schedules:
        told = "; ".join(f"{each.name} {each}" for each in jobs.schedules)
        told = "left to others" if options.no_schedule else told
        report.log(events.JOBS_SCHEDULE, "schedule %s", told, facts={})


def release() -> str:
    """The version of this package."""
    try:
        return version("wsgi-defer")
    except PackageNotFoundError:  # it was copied, not installed
        return "of an unknown version"


def location(url: str | None) -> str:
    """The URL without what may be secret: the user, the password and all options."""
    if url is None:
        return "no URL, and are lost when this process ends"
    scheme, _, rest = url.partition("://")
    shown, *options = re.split("[?#]", rest)
    if not rest.startswith("/"):  # SQLAlchemy takes a password with a / as it is
        if "@" in "".join(options):  # the end of a password, or part of an option
            return f"{scheme}://..."
        shown = shown.rpartition("@")[2]
    return f"{scheme}://{shown}"


def counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
