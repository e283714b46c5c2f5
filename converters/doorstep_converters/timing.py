"""The figures of one variant, taken in fresh processes on one thread."""

from pathlib import Path
from typing import Any

from doorstep.measure import Plan, measure
from doorstep_converters.worker import Channel


def answer(
    out: Path, channel: Channel, bundle: str, variant: str, item: Any, task_options: dict[str, Any]
) -> dict[str, Any]:
    """Measure latency, cold start and peak RSS; a job of `stages`."""
    figures = measure(Plan(bundle, variant, item, task_options=task_options))
    return {
        "p50_ms": figures.p50_ms,
        "p95_ms": figures.p95_ms,
        "cold_start_ms": figures.cold_start_ms,
        "peak_rss_mib": figures.peak_rss_mib,
    }
