"""What Prometheus is told: the text, and the collector, by Prometheus' own parsers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as generate_new
from prometheus_client.openmetrics.parser import text_string_to_metric_families as new
from prometheus_client.parser import text_string_to_metric_families as old

from wsgi_defer.errors import DeferError
from wsgi_defer.ledger import CallFigures, Histogram, Snapshot, openmetrics
from wsgi_defer.ledger import _openmetrics as module
from wsgi_defer.observers import prometheus

NAME = 'say "hi" \\ to\nyou'
TIMES = Histogram((0.5, 1.0), (1, 2, 3), 9.5)
CALLS = (
    CallFigures(NAME, 3, 4, 5, 6, 1, 0, TIMES, TIMES),
    CallFigures("shop.mail", 1, 0, 0, 0, 0, 0, TIMES, TIMES),
)
WORKERS = tuple(
    SimpleNamespace(state=state, waiting=2) for state in ("idle", "idle", "stopping")
)


def taken(**more):
    return Snapshot(
        1.0, 0.0, True, "shop", WORKERS, CALLS, (), 9, 8, 6, 4, 5, 6, 0, 2.5
    )._replace(**more)  # fmt: skip


def samples(families):
    """The values, by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("parse", [old, new])
def test_the_text(parse):
    """Both parsers read the same."""
    found = samples(parse(openmetrics(taken())))
    for result, number in zip(module.RESULTS, (3, 4, 5, 6), strict=True):
        key = "wsgi_defer_calls_total", ("call", NAME), ("result", result)
        assert found[key] == number
    for name in ("wsgi_defer_call_seconds", "wsgi_defer_wait_seconds"):
        bucket = f"{name}_bucket", ("call", "shop.mail")
        assert [found[(*bucket, ("le", le))] for le in ("0.5", "1.0", "+Inf")] == [
            1, 3, 6
        ]  # fmt: skip
        assert found[f"{name}_sum", ("call", "shop.mail")] == 9.5
        assert found[f"{name}_count", ("call", "shop.mail")] == 6
    assert found["wsgi_defer_workers", ("state", "idle")] == 2
    assert found["wsgi_defer_workers", ("state", "after response")] == 0
    assert found[("wsgi_defer_waiting_calls",)] == 6
    assert found[("wsgi_defer_oldest_waiting_seconds",)] == 2.5
    assert found[("wsgi_defer_requests_total",)] == 9
    assert found[("wsgi_defer_slow_calls_total",)] == 8
    assert found[("wsgi_defer_listen_queue",)] == 4


def test_types_and_help():
    """Each family has its own, once."""
    families = list(new(openmetrics(taken())))
    assert all(family.documentation for family in families)
    assert {family.name: family.type for family in families} == {
        "wsgi_defer_calls": "counter",
        "wsgi_defer_call_seconds": "histogram",
        "wsgi_defer_wait_seconds": "histogram",
        "wsgi_defer_waiting_calls": "gauge",
        "wsgi_defer_oldest_waiting_seconds": "gauge",
        "wsgi_defer_workers": "gauge",
        "wsgi_defer_requests": "counter",
        "wsgi_defer_slow_calls": "counter",
        "wsgi_defer_listen_queue": "gauge",
    }


def test_what_is_not_known():
    """No queue, and no call that waits."""
    text = openmetrics(taken(queue=None, oldest_waiting=None, calls=()))
    found = samples(new(text))
    assert "wsgi_defer_listen_queue" not in text
    assert found[("wsgi_defer_oldest_waiting_seconds",)] == 0


class Jobs:
    """Some jobs, which may be there or not."""

    asked = 0
    error = None

    def counts(self, by_name):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"mail": {"failed": 1, "waiting": self.asked}}


def test_jobs(monkeypatch):
    """By state and name; not asked more often than every five seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = Jobs()

    def waiting():
        key = ("name", "mail"), ("state", "waiting")
        return samples(new(openmetrics(taken(), jobs))).get(("wsgi_defer_jobs", *key))

    assert [waiting(), waiting()] == [1, 1]
    now[0] += 6
    assert waiting() == 2
    now[0] += 6
    jobs.error = DeferError("the engine does not answer")
    assert [waiting(), waiting()] == [None, None]
    assert jobs.asked == 3


@pytest.fixture
def registry(monkeypatch):
    """One with our collector, and what that has to tell."""
    monkeypatch.setattr(prometheus, "record", lambda: None)
    monkeypatch.setattr(prometheus, "snapshot", taken)
    registry = CollectorRegistry()
    registry.register(prometheus.Collector(Jobs()))
    return registry


@pytest.mark.parametrize("parse", [old, new])
def test_the_collector(registry, parse):
    """It tells what the text does."""
    generate = generate_latest if parse is old else generate_new
    text = generate(registry).decode()
    assert samples(parse(text)) == samples(new(openmetrics(taken(), Jobs())))


def test_in_the_multiprocess_mode(registry, monkeypatch, tmp_path):
    """Each figure once, beside metrics of the app's."""
    MultiProcessCollector(registry, path=str(tmp_path))
    Counter("own", "Of the app", registry=registry)
    text = generate_latest(registry).decode()
    assert text.count("wsgi_defer_requests_total 9.0") == 1
    assert "own_total" in text
    assert list(tmp_path.iterdir()) == []


def test_to_register_it_asks_nobody(registry, monkeypatch):
    """Not even for names."""
    monkeypatch.setattr(prometheus, "snapshot", None)
    CollectorRegistry(auto_describe=True).register(prometheus.Collector())
