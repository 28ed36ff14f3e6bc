"""The figures of all workers, for the registry of ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as Base

from ..ledger import record, snapshot
from ..ledger._openmetrics import CountsJobs, families


class Collector(Base):
    """Has one scrape of any worker tell of all of them.

    ::

        from prometheus_client import REGISTRY
        REGISTRY.register(Collector())

    ``PROMETHEUS_MULTIPROC_DIR`` is not needed for these figures, and does no harm: if
    you use it for metrics of your own, register this beside ``MultiProcessCollector``,
    in the same registry. That needs the hooks of ``wsgi_defer.gunicorn``; without
    them, each process tells of itself only.

    :param jobs: a ``Jobs``, whose jobs are counted, too, at most once in 5 seconds.
    """

    def __init__(self, jobs: CountsJobs | None = None) -> None:
        self._jobs = jobs
        record()

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for, at each scrape."""
        for family in families(snapshot(), self._jobs):
            metric = Metric(family.name, family.help, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, labels, value)
            yield metric

    def describe(self) -> list[Metric]:
        """Nothing, so that to register it asks nobody for figures."""
        return []
