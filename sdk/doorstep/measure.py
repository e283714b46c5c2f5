"""Latency, cold start and memory of one variant, each taken in fresh processes.

Times are wall-clock. Cold start runs from the moment the process is spawned to its first answer, with the operating
system's file cache warm. Peak RSS is the kernel's high-water mark of that process.
"""

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from doorstep.fresh import Call, call_fresh
from doorstep.fresh_child import memory_mib
from doorstep.golden import Example, item_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        item: what every prediction is given, as a golden example has it.
        threads: threads a prediction may use.
        iterations: timed predictions, after `warmup` untimed ones.
        task_options: as in `LoadOptions`, for example a shorter `max_length`.
        cold_starts: fresh processes; the medians over them are reported.
    """

    bundle: str
    variant: str
    item: Any
    threads: int = 1
    iterations: int = 50
    warmup: int = 5
    cold_starts: int = 3
    task_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: times in ms, memory in MiB; `latencies_ms` holds every timed prediction."""

    p50_ms: float
    p95_ms: float
    cold_start_ms: float
    peak_rss_mib: float
    latencies_ms: tuple[float, ...]


def measure(plan: Plan) -> Figures:
    """Measure one variant.

    Raises:
        EngineError: a process failed.
    """
    runs = [_spawn(plan, plan.iterations if number == 0 else 0) for number in range(max(1, plan.cold_starts))]
    latencies = sorted(runs[0]["latencies_ms"])
    return Figures(
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        cold_start_ms=statistics.median(run["cold_start_ms"] for run in runs),
        peak_rss_mib=statistics.median(run["peak_rss_mib"] for run in runs),
        latencies_ms=tuple(runs[0]["latencies_ms"]),
    )


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of values in rising order; `share` 0 to 100."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))]


def answer(plan: dict[str, Any]) -> dict[str, Any]:
    """Be the fresh process: load, predict, and return when the first answer stood and how long the next ones took."""
    from doorstep.predictor import LoadOptions, Predictor

    options = LoadOptions(task_options=plan["task_options"])
    predictor = Predictor.load(
        plan["bundle"], variant=plan["variant"], threads=plan["threads"], strict=True, options=options
    )
    item = item_of(predictor.bundle, Example(plan["item"], {}))
    predictor.predict(item)
    first = time.monotonic()
    peak = peak_rss_mib()
    latencies = []
    for number in range(plan["warmup"] + plan["iterations"] if plan["iterations"] else 0):
        start = time.perf_counter()
        predictor.predict(item)
        if number >= plan["warmup"]:
            latencies.append(1e3 * (time.perf_counter() - start))
    return {"first": first, "peak_rss_mib": peak, "latencies_ms": latencies}


def peak_rss_mib() -> float:
    """Return the high-water mark of this process's resident memory in MiB (Linux)."""
    return memory_mib("VmHWM")


def _spawn(plan: Plan, iterations: int) -> dict[str, Any]:
    call = Call("doorstep.measure:answer", {**asdict(plan), "iterations": iterations})
    result = call_fresh(call, plan.variant)
    result["cold_start_ms"] = 1e3 * (result["first"] - result["spawned"])
    return result
