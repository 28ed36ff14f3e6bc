"""``python -m wsgi_defer.jobs``: run the workers, and see what became of jobs."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import DeferError
from ._command.arguments import parser
from ._command.output import complain
from ._command.worker import work
from ._supervisor import Supervisor
from ._target import Refusal, load
from .errors import NotSupported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may be ASCII only
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.run is work and options.slot is None:
        # A stop can interrupt nothing before the supervisor has started.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os._exit(0))
    options.again = [sys.executable, "-m", "wsgi_defer.jobs", "worker", options.target]
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


if __name__ == "__main__":
    sys.exit(main())
