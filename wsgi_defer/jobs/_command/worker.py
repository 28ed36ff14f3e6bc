"""The command that runs jobs: it supervises worker processes, or is one of them."""

from __future__ import annotations

import argparse
import signal

from ..._runtime import events, report
from ..._runtime.parent import end_with
from .._jobs import Jobs
from .._scheduler import Scheduler
from .._supervisor import Supervisor
from .._target import Refusal
from .._worklog import new_count, summary
from . import speech


def work(jobs: Jobs, options: argparse.Namespace) -> int:
    """Supervise the worker processes, or be one of them."""
    if not jobs.names:
        target = getattr(options, "target", "this app")
        module, colon, name = target.partition(":")
        factory = ""
        if colon and not name.endswith(")"):
            factory = (
                ". If an app factory does that, name the factory: "
                f"{module}:create_app()"
            )
        raise Refusal(
            f"{target} has no handlers, so its jobs would wait in vain. Import "
            "the modules with its @jobs.handler(...), or name them: --import "
            f"shop.handlers{factory}"
        )
    speech.set_up(options.quiet)
    if options.slot is None:
        return supervise(jobs, options)
    if options.supervisor is not None:
        end_with(options.supervisor, signal.SIGTERM)
    if options.counts is not None:
        jobs.worklog.count_into(options.counts)
    jobs.engine.work(options.slot, options.processes, options.threads)
    jobs.engine.close()
    return 0


def supervise(jobs: Jobs, options: argparse.Namespace) -> int:
    """Start the worker processes, and say in the end what they have done."""
    scheduled = () if options.no_schedule else jobs.schedules
    if scheduled and not jobs.engine.schedules:
        jobs.engine.refuse("every")
    if options.threads > 1 and not jobs.engine.threads:
        jobs.engine.refuse("threads")
    speech.introduce(jobs, options)
    own = jobs.engine.own_processes
    jobs.engine.close()
    command, files, counts = list(options.again), [], new_count()
    if counts is not None:
        command += ["--counts", str(counts)]
        files.append(counts)
    scheduler = Scheduler(jobs, scheduled)
    try:
        if scheduled:
            scheduler.start()
        return Supervisor(command, 1 if own else options.processes, files).run()
    finally:
        scheduler.stop()
        jobs.engine.close()
        told = "not counted" if counts is None else summary(counts)
        report.log(events.JOBS_STOPPED, "stopped: %s", told, facts={})
