"""The figures of a bench as tables, for terminal and page alike."""

import statistics
from typing import NamedTuple

from doorstep.bench import BenchReport
from doorstep.energy import NOT_TOLD


class Table(NamedTuple):
    """A title, the names of the columns, and the rows."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[object, ...]]


def tables(report: BenchReport) -> list[Table]:
    """Return the tables that have rows."""
    return [table for table in (_latency(report), _throughput(report), _cold(report), _memory(report)) if table.rows]


def _latency(report: BenchReport) -> Table:
    setup = report.setup
    found = [(one.variant, latency) for one in report.variants for latency in one.latencies]
    rows: list[tuple[object, ...]] = [
        (
            variant,
            latency.threads,
            f"{latency.p50_ms:.2f}",
            f"{latency.p95_ms:.2f}",
            f"{latency.p99_ms:.2f}",
            f"{latency.iqr_ms:.2f}",
            None if latency.energy_mj is None else f"{latency.energy_mj:.3g}",
        )
        for variant, latency in found
    ]
    head = ("variant", "threads", "p50", "p95", "p99", "IQR", "energy mJ")
    title = f"Latency of one item in ms, {setup.iterations} predictions after {setup.warmup}"
    if any(latency.energy_mj is not None for _, latency in found):
        return Table(title, head, rows)
    return Table(f"{title}; energy: {NOT_TOLD}", head[:-1], [row[:-1] for row in rows])


def _throughput(report: BenchReport) -> Table:
    batches = report.setup.batches
    rows: list[tuple[object, ...]] = []
    for one in report.variants:
        found = {(t.threads, t.batch): t for t in one.throughputs}
        for threads in report.setup.threads:
            cells = [found.get((threads, batch)) for batch in batches]
            if any(cells):
                speeds = [f"{cell.items_per_s:.0f}" if cell else None for cell in cells]
                peak = max(cell.peak_rss_mib for cell in cells if cell)
                rows.append((one.variant, threads, *speeds, f"{peak:.0f}"))
    head = ("variant", "threads", *(f"batch {batch}" for batch in batches), "peak RSS MiB")
    return Table("Throughput in items a second", head, rows)


def _cold(report: BenchReport) -> Table:
    rows: list[tuple[object, ...]] = [
        (
            one.variant,
            f"{statistics.median(one.cold_starts_ms):.0f}",
            f"{min(one.cold_starts_ms):.0f}",
            f"{max(one.cold_starts_ms):.0f}",
            len(one.cold_starts_ms),
        )
        for one in report.variants
        if one.cold_starts_ms
    ]
    title = "Cold start in ms: process start to first answer, file cache warm"
    return Table(title, ("variant", "median", "least", "most", "processes"), rows)


def _memory(report: BenchReport) -> Table:
    parts = next((tuple(one.rss_mib) for one in report.variants if one.rss_mib), ())
    rows: list[tuple[object, ...]] = [
        (one.variant, *(f"{one.rss_mib[part]:.1f}" for part in parts), f"{one.peak_rss_mib:.1f}")
        for one in report.variants
        if one.rss_mib and one.peak_rss_mib is not None
    ]
    return Table("Resident memory in MiB after each part of a start", ("variant", *parts, "peak"), rows)
