"""The closed list of the worker's metrics: name, kind, unit, labels, meaning.

Names follow Prometheus: the unit in the name, ``_total`` for counters. A metric that is not in
this list does not exist; a test compares the list with what a worker serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

Kind = Literal["counter", "gauge", "histogram"]

# A second series beside every counter and histogram, with the time of its start, is of no use here.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class MetricDef:
    """One metric.

    Parameters
    ----------
    name : str
        Full Prometheus name without the ``_total`` of counters.
    kind : str
        ``counter``, ``gauge`` or ``histogram``.
    labels : tuple of str
        Label names; their values come from closed sets, never from files.
    help : str
        What it tells an operator.
    buckets : tuple of float
        Upper bounds of a histogram, in the unit of the name.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

METRICS: tuple[MetricDef, ...] = (
    MetricDef("biodatamine_events", "counter", ("stage", "outcome"),
              "events that left a stage: done or dead-lettered"),
    MetricDef("biodatamine_dead_letters", "counter", ("stage", "reason"),
              "messages sent to a dead-letter topic"),
    MetricDef("biodatamine_batch_events", "histogram", ("stage",),
              "events taken at once", _COUNTS),
    MetricDef("biodatamine_batch_seconds", "histogram", ("stage",),
              "time from taking a batch to letting its offsets be committed", _SECONDS),
    MetricDef("biodatamine_retries", "counter", ("stage", "service"),
              "attempts that failed because a service was away"),
    MetricDef("biodatamine_stalled_seconds", "gauge", ("stage",),
              "how long a stage has waited for a service; 0 when it works"),
    MetricDef("biodatamine_rows_written", "counter", ("stage",),
              "rows inserted into ClickHouse, repeats included"),
    MetricDef("biodatamine_arrival_to_done_seconds", "histogram", ("stage",),
              "time from the durable arrival of a file to the end of a stage", _SECONDS),
    MetricDef("biodatamine_decoder_restarts", "counter", (),
              "decoding processes that crashed or ran over their time"),
)  # fmt: skip


class Metrics:
    """The metrics of one worker, in a registry of their own.

    Parameters
    ----------
    registry : CollectorRegistry, optional
        Where to register; a new one by default, so that tests do not share counts.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        for definition in METRICS:
            metric: Counter | Gauge | Histogram
            if definition.kind == "counter":
                metric = Counter(
                    definition.name, definition.help, definition.labels, registry=self.registry
                )
            elif definition.kind == "gauge":
                metric = Gauge(
                    definition.name, definition.help, definition.labels, registry=self.registry
                )
            else:
                metric = Histogram(
                    definition.name,
                    definition.help,
                    definition.labels,
                    buckets=definition.buckets,
                    registry=self.registry,
                )
            self._metrics[definition.name] = metric

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        metric = self._metrics[name]
        assert isinstance(metric, Counter)
        (metric.labels(**labels) if labels else metric).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._metrics[name]
        assert isinstance(metric, Gauge)
        (metric.labels(**labels) if labels else metric).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        metric = self._metrics[name]
        assert isinstance(metric, Histogram)
        (metric.labels(**labels) if labels else metric).observe(value)
