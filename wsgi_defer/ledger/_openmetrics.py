"""A snapshot for Prometheus: as families of samples, and as their text.

The text is OpenMetrics, https://prometheus.io/docs/specs/om/open_metrics_spec/, which
Prometheus' own older format can be read as, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from ..errors import DeferError
from ._types import CallFigures, Histogram, Snapshot

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
JOBS_AGE = 5.0  # seconds for which the numbers of jobs are kept: to count may be slow
STATES = ("idle", "request", "after response", "stopping")
RESULTS = ("finished", "failed", "skipped", "lost")


class CountsJobs(Protocol):
    """``wsgi_defer.jobs.Jobs``, as far as it is used here."""

    def counts(self, by_name: Any) -> Any: ...


class Sample(NamedTuple):
    """A line."""

    suffix: str  # of the family's name
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """The samples of one name."""

    name: str
    kind: str  # "counter", "gauge" or "histogram"
    help: str
    samples: list[Sample]


def openmetrics(snapshot: Snapshot, jobs: CountsJobs | None = None) -> str:
    """The text that Prometheus scrapes, to be served as ``CONTENT_TYPE``.

    With ``jobs``, the numbers of its jobs, too; these are up to 5 seconds old. If its
    engine does not answer, they are left out.
    """
    lines = []
    for family in families(snapshot, jobs):
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines.append(f"# HELP {family.name} {family.help}")
        for suffix, labels, value in family.samples:
            pairs = ",".join(f'{key}="{_escape(labels[key])}"' for key in labels)
            pairs = pairs and f"{{{pairs}}}"
            lines.append(f"{family.name}{suffix}{pairs} {value}")
    return "\n".join([*lines, "# EOF\n"])


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def families(snapshot: Snapshot, jobs: CountsJobs | None = None) -> Iterator[Family]:
    """The same, as data."""
    calls = snapshot.calls
    yield Family(
        "wsgi_defer_calls", "counter", "Calls that have ended, by how.",
        [
            Sample("_total", {"call": call.name, "result": result},
                   getattr(call, result))
            for call in calls for result in RESULTS
        ],
    )  # fmt: skip
    yield _histograms("wsgi_defer_call_seconds", "How long calls ran.", calls, "ran")
    yield _histograms(
        "wsgi_defer_wait_seconds", "How long calls waited for their start.", calls,
        "waited",
    )  # fmt: skip
    yield _gauge(
        "wsgi_defer_waiting_calls", "Calls that wait for their start.",
        sum(worker.waiting for worker in snapshot.workers),
    )  # fmt: skip
    yield _gauge(
        "wsgi_defer_oldest_waiting_seconds",
        "How long the call that waits longest has waited; 0 if none waits.",
        snapshot.oldest_waiting or 0.0,
    )
    states = [worker.state for worker in snapshot.workers]
    yield Family(
        "wsgi_defer_workers", "gauge", "Workers, by what they do.",
        [Sample("", {"state": state}, states.count(state)) for state in STATES],
    )  # fmt: skip
    yield _counter("wsgi_defer_requests", "Requests served.", snapshot.requests)
    yield _counter(
        "wsgi_defer_slow_calls", "Calls that ran longer than slow_after.",
        snapshot.slow,
    )  # fmt: skip
    if snapshot.queue is not None:
        yield _gauge(
            "wsgi_defer_listen_queue", "Connections that wait for a worker.",
            snapshot.queue,
        )  # fmt: skip
    counts = None if jobs is None else _counts(jobs)
    if counts is not None:
        yield Family(
            "wsgi_defer_jobs", "gauge", "Jobs, by their state and name.",
            [
                Sample("", {"state": str(state), "name": name}, number)
                for name, numbers in counts.items()
                for state, number in numbers.items()
            ],
        )  # fmt: skip


def _counter(name: str, says: str, value: float) -> Family:
    return Family(name, "counter", says, [Sample("_total", {}, value)])


def _gauge(name: str, says: str, value: float) -> Family:
    return Family(name, "gauge", says, [Sample("", {}, value)])


def _histograms(
    name: str, says: str, calls: Iterable[CallFigures], field: str
) -> Family:
    samples = []
    for call in calls:
        histogram: Histogram = getattr(call, field)
        labels = {"call": call.name}
        bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
        below = accumulate(histogram.counts)
        for bound, number in zip(bounds, below, strict=True):
            samples.append(Sample("_bucket", {**labels, "le": bound}, number))
        samples.append(Sample("_count", labels, histogram.total))
        samples.append(Sample("_sum", labels, histogram.sum))
    return Family(name, "histogram", says, samples)


Counts = Mapping[str, Mapping[str, int]]
_counted: WeakKeyDictionary[CountsJobs, tuple[float, Counts | None]]
_counted = WeakKeyDictionary()


def _counts(jobs: CountsJobs) -> Counts | None:
    known = _counted.get(jobs)
    if known is not None and time.monotonic() - known[0] < JOBS_AGE:
        return known[1]
    counts: Counts | None = None
    try:
        counts = jobs.counts(by_name=True)
    except DeferError:  # the engine does not answer, or cannot count
        pass
    _counted[jobs] = time.monotonic(), counts
    return counts
