"""The same figures for programs: in our names, and in those of PHP-FPM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ledger import CallFigures, Histogram, Snapshot, WorkerFigures
from ._board import Board
from ._totals import totals

if TYPE_CHECKING:
    from ..jobs import Job

# Goes up if a field changes its meaning or leaves. New fields may come any time.
VERSION = 1


def to_json(snapshot: Snapshot, board: Board | None) -> dict[str, Any]:
    """All that the page shows. ``docs/status.md`` lists the fields."""
    found = {
        "wsgi_defer": VERSION,
        "taken_at": snapshot.taken_at,
        "started_at": snapshot.started_at,
        "whole": snapshot.whole,
        "name": snapshot.name,
        "requests": snapshot.requests,
        "slow": snapshot.slow,
        "queue": snapshot.queue,
        "queue_longest": snapshot.queue_longest,
        "queue_limit": snapshot.queue_limit,
        "all_busy": snapshot.all_busy,
        "oldest_waiting": snapshot.oldest_waiting,
        "totals": totals(snapshot)._asdict(),
        "workers": list(map(_worker, snapshot.workers)),
        "calls": [_call(call) for call in snapshot.calls],
        "failures": [failure._asdict() for failure in snapshot.failures],
    }
    if board is not None:
        found["jobs"] = _jobs(board)
    return found


def _worker(worker: WorkerFigures) -> dict[str, Any]:
    """Whole milliseconds, as 60 pairs of long numbers would be most of the answer."""
    found = worker._asdict()
    minute = found.pop("minute")
    found["minute_ms"] = [(int(one * 1000), int(other * 1000)) for one, other in minute]
    return found


def _call(call: CallFigures) -> dict[str, Any]:
    return {
        **call._asdict(),
        "waited": _histogram(call.waited),
        "ran": _histogram(call.ran),
    }


def _histogram(times: Histogram) -> dict[str, Any]:
    return {
        "count": sum(times.counts),
        "sum": times.sum,
        "median": times.quantile(0.5),
        "p99": times.quantile(0.99),
    }


def _jobs(board: Board) -> dict[str, Any]:
    return {
        "counts": board.counts,
        "due": [
            {"name": due.name, "every": due.every, "at": due.at.isoformat()}
            for due in board.due
        ],
        "recent": list(map(_job, board.recent)),
        "failed": list(map(_job, board.failed)),
        "problems": board.problems,
    }


def _job(job: Job) -> dict[str, Any]:
    """Without its result, which may be private, like its payload."""
    return {name: of for name, of in job.to_dict().items() if name != "result"}


# What FPM calls its states. After the response is close to its own: the request is
# finished for the client, and the worker is taken.
_STATES = {"idle": "Idle", "after response": "Finishing", "stopping": "Ending"}


def to_fpm(snapshot: Snapshot, full: bool, most_active: int) -> dict[str, Any]:
    """As the status page of PHP-FPM, ``?json`` and ``?json&full``."""
    of_all = totals(snapshot)
    found: dict[str, Any] = {
        "pool": snapshot.name or "wsgi_defer",
        "process manager": "static",
        "start time": int(snapshot.started_at),
        "start since": int(snapshot.taken_at - snapshot.started_at),
        "accepted conn": snapshot.requests,
        "listen queue": snapshot.queue or 0,
        "max listen queue": snapshot.queue_longest or 0,
        "listen queue len": snapshot.queue_limit or 0,
        "idle processes": of_all.idle,
        "active processes": of_all.active,
        "total processes": of_all.workers,
        "max active processes": most_active,
        "max children reached": snapshot.all_busy,
        "slow requests": snapshot.slow,
        # Not FPM's.
        "after response processes": of_all.after_response,
        "waiting calls": of_all.waiting,
    }
    if full:
        found["processes"] = [_process(each, snapshot) for each in snapshot.workers]
    return found


def _process(worker: WorkerFigures, snapshot: Snapshot) -> dict[str, Any]:
    """What is not known here, such as the URI, is empty, as FPM's own is when idle."""
    return {
        "pid": worker.pid,
        "state": _STATES.get(worker.state, "Running"),
        "start time": int(worker.started_at),
        "start since": int(snapshot.taken_at - worker.started_at),
        "requests": worker.requests,
        "request duration": max(int((snapshot.taken_at - worker.since) * 1e6), 0),
        "request method": "-",
        "request uri": "-",
        "content length": 0,
        "user": "-",
        "script": worker.call or "-",
        "last request cpu": 0.0,
        "last request memory": worker.memory or 0,
    }
