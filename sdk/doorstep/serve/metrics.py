"""Prometheus metrics. No label holds anything a user sent.

Where several processes serve one socket, each writes its figures to files in PROMETHEUS_MULTIPROC_DIR, and whichever
is asked adds them up.
"""

import os
import threading
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from doorstep import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_QUEUE = ("doorstep_queue_rows", "Rows that wait for a run")
_WRITE_EVERY_S = 0.5
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One app's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "doorstep_requests", "Requests answered", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "doorstep_request_seconds",
            "Arrival at the app to response",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.model_seconds = Histogram(
            "doorstep_model_seconds",
            "Items to results: preparing, waiting, running",
            ("model", "variant"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.engine_seconds = Histogram(
            "doorstep_engine_seconds",
            "One run of the engine",
            ("model", "variant"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "doorstep_batch_rows", "Rows of one run", ("model", "variant"), buckets=_ROWS, registry=registry
        )
        self.labels = Counter("doorstep_labels", "Best labels given", ("model", "label"), registry=registry)
        self.errors = Counter("doorstep_errors", "Requests refused or failed", ("kind",), registry=registry)
        self.reloads = Counter("doorstep_reloads", "Bundles loaded anew", ("model", "outcome"), registry=registry)
        build = Gauge(
            "doorstep_build_info", "Version of doorstep", ("version",), multiprocess_mode="max", registry=registry
        )
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    def watch_queue(self, queued: Callable[[], dict[str, int]]) -> None:
        """Report what `queued` returns, model to waiting rows: at each scrape; shared, twice a second."""
        if not _is_shared():
            self._registry.register(_Queue(queued))
            return
        gauge = Gauge(*_QUEUE, ("model",), multiprocess_mode="livesum", registry=self._registry)

        def write() -> None:
            while not threading.Event().wait(_WRITE_EVERY_S):
                for model, rows in queued().items():
                    gauge.labels(model).set(rows)

        threading.Thread(target=write, name="doorstep-queue-metric", daemon=True).start()

    def ran(self, model: str, variant: str, rows: int, seconds: float) -> None:
        """Note a run of the engine."""
        self.engine_seconds.labels(model, variant).observe(seconds)
        self.batch_rows.labels(model, variant).observe(rows)

    def page(self) -> bytes:
        """Return all metrics in the text format."""
        if not _is_shared():
            return generate_latest(self._registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        added_up = CollectorRegistry()
        MultiProcessCollector(added_up)  # type: ignore[no-untyped-call]
        return generate_latest(added_up)


def _is_shared() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


class _Queue(Collector):
    def __init__(self, queued: Callable[[], dict[str, int]]) -> None:
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(*_QUEUE, labels=["model"])
        for model, rows in self._queued().items():
            family.add_metric([model], rows)
        return [family]
