"""Runs one command."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from ...errors import DeferError
from .._jobs import Jobs
from .._supervisor import Supervisor
from .._target import Refusal, import_more, load
from ..errors import NotSupported
from . import reload
from .arguments import PROGRAM, parser, passed_on
from .output import complain
from .worker import work


def main(
    argv: Sequence[str] | None = None,
    *,
    jobs: Jobs | None = None,
    program: str = PROGRAM,
    again: Sequence[str] = (sys.executable, "-m", "wsgi_defer.jobs"),
) -> int:
    """Run the command; return its exit status.

    With ``jobs``, the arguments name no others. ``again`` starts the same command in
    another process.
    """
    options = parser(program, takes_target=jobs is None).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may be ASCII only
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.run is work:
        where = [options.target] if jobs is None else []
        options.again = [*again, "worker", *where, *passed_on(options)]
        if options.slot is None:
            # A stop can interrupt nothing before the supervisor has started.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, frame: os._exit(0))
            if options.reload:
                return reload.run(options.again)
    try:
        jobs = jobs or load(options.target)
        import_more(options.imports)
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
