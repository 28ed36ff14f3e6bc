"""What the command tells about jobs, and does with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime

from ..._runtime.report import printable
from ...errors import DeferError
from .._job import STATES, Job
from .._jobs import Jobs
from .._schedule import Schedule
from .._scheduler import now
from .._target import Refusal
from ..errors import NotSupported
from .output import complain, display, print_json, print_table

LIST = ["id", "name", "state", "attempts", "enqueued_at", "finished_at"]
FAILED = ["id", "name", "attempts", "finished_at", "error"]


def show_list(jobs: Jobs, options: argparse.Namespace) -> int:
    found = jobs.recent(options.limit, state=options.state, name=options.name)
    return _show(found, LIST, options)


def show_failed(jobs: Jobs, options: argparse.Namespace) -> int:
    return _show(jobs.failed(options.limit, name=options.name), FAILED, options)


def _show(found: list[Job], columns: list[str], options: argparse.Namespace) -> int:
    if options.json:
        print_json([job.to_dict() for job in found])
        return 0
    titles = [name.removesuffix("_at") for name in columns]
    print_table(titles, [[getattr(job, name) for name in columns] for job in found])
    return 0


def show_one(jobs: Jobs, options: argparse.Namespace) -> int:
    job = jobs.status(options.id)
    if job is None:
        raise Refusal(f"there is no job {options.id!r}")
    if options.json:
        print_json(job.to_dict())
        return 0
    names = list(job.to_dict())
    width = max(map(len, names))
    for name in names:
        value = getattr(job, name)
        text = json.dumps(value) if name == "result" else display(value)
        print(f"{name:{width}}  {printable(text)}")
    return 0


def count(jobs: Jobs, options: argparse.Namespace) -> int:
    if options.by_name:
        by_name = jobs.counts(by_name=True)
        if options.json:
            print_json(by_name)
        else:
            rows = [[name, *counts.values()] for name, counts in by_name.items()]
            print_table(["name", *STATES], rows)
        return 0
    counts = jobs.counts()
    if options.json:
        print_json(counts)
    else:
        print_table(STATES, [[*counts.values()]])
    return 0


def cancel(jobs: Jobs, options: argparse.Namespace) -> int:
    return _each(options, jobs.cancel, "is cancelled")


def retry(jobs: Jobs, options: argparse.Namespace) -> int:
    if not options.all:
        return _each(options, jobs.retry, "is queued again")
    number = jobs.retry_all(options.name)
    if options.json:
        print_json({"queued": number})
    else:
        print(f"{number} jobs are queued again")
    return 0


def _each(options: argparse.Namespace, do: Callable[[str], object], done: str) -> int:
    """Do that with each id. The status is 1 if one of them was refused."""
    told: list[dict[str, str | None]] = []
    for job_id in options.ids:
        refused = None
        try:
            do(job_id)
        except NotSupported:
            raise
        except DeferError as error:
            complain(error)
            refused = str(error)
        else:
            if not options.json:
                print(f"{printable(job_id)} {done}")
        told.append({"id": job_id, "error": refused})
    if options.json:
        print_json(told)
    return int(any(each["error"] for each in told))


def schedule(jobs: Jobs, options: argparse.Namespace) -> int:
    rows: list[tuple[datetime, Schedule]] = []
    for each in jobs.schedules:
        due = now()
        for _ in range(options.limit):
            due = each.after(due)
            rows.append((due, each))
    rows.sort(key=lambda row: row[0])
    if options.json:
        print_json(
            [
                {"name": each.name, "every": str(each.every),
                 "timezone": str(each.zone), "due_at": due.isoformat()}
                for due, each in rows
            ]
        )  # fmt: skip
        return 0
    print_table(
        ["due", "name", "every", "timezone"],
        [[due, each.name, each.every, each.zone] for due, each in rows],
    )
    return 0


def clear(jobs: Jobs, options: argparse.Namespace) -> int:
    number = jobs.clear(options.days * 24 * 3600)
    if options.json:
        print_json({"cleared": number})
    else:
        print(f"{number} jobs cleared")
    return 0
