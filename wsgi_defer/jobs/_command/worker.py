"""The command that runs jobs: it supervises worker processes, or is one of them."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

from ..._runtime.parent import end_with
from ..._runtime.report import printable
from .._jobs import Jobs
from .._supervisor import Supervisor
from .._target import Refusal


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
