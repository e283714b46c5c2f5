"""A bench of a bundle on this device: latency, throughput, cold start and memory, each in fresh processes."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from doorstep.errors import EngineError
from doorstep.fresh import Call, call_fresh
from doorstep.measure import percentile
from doorstep.origin import Origin

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Setup:
    """What to measure, and how often.

    Attributes:
        item: what latency, cold start and memory are measured with, as a golden example has it.
        items: what throughput is measured with.
        threads, batches: every count is measured.
        iterations: timed predictions, after `warmup` untimed ones.
        cold_starts: fresh processes whose first answer is timed; 0 for none.
        cpus: CPUs the processes may use; empty for all that this one may.
    """

    bundle: str
    item: Any
    items: tuple[Any, ...]
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1, 8, 32)
    iterations: int = 100
    warmup: int = 10
    cold_starts: int = 0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one item in ms; `iqr_ms` is the spread, third quartile minus first."""

    threads: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    iqr_ms: float
    energy_mj: float | None
    """Energy of the whole package or board for one prediction (mJ); None where the board does not tell."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Items a second through `predict_many`: the median of three rounds."""

    threads: int
    batch: int
    items_per_s: float
    peak_rss_mib: float


@dataclass(frozen=True, slots=True)
class Benched:
    """One variant's figures.

    Attributes:
        rss_mib: resident memory after each part of a start, in their order.
        cold_starts_ms: process start to first answer, one figure a process.
        failures: what could not be measured, and why.
    """

    variant: str
    engine: str
    latencies: tuple[Latency, ...] = ()
    throughputs: tuple[Throughput, ...] = ()
    rss_mib: dict[str, float] = field(default_factory=dict)
    peak_rss_mib: float | None = None
    cold_starts_ms: tuple[float, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def cold_start_ms(self) -> float | None:
        """The median of the cold starts."""
        return statistics.median(self.cold_starts_ms) if self.cold_starts_ms else None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Every variant's figures, where they were taken, and the words on what they were taken with."""

    origin: Origin
    setup: Setup
    items: str
    command: str
    variants: tuple[Benched, ...]


def bench(setup: Setup, variant: str, engine: str, tell: Callable[[str], None] = lambda text: None) -> Benched:
    """Measure one variant; what fails is told in `failures`, the rest is measured."""
    runner = _Runner(setup, variant, tell)
    latencies = [latency for count in setup.threads if (latency := runner.latency(count))]
    throughputs = [
        throughput
        for count in setup.threads
        for batch in setup.batches
        if (throughput := runner.throughput(count, batch))
    ]
    memory = runner.memory()
    cold = [ms for number in range(setup.cold_starts) if (ms := runner.cold_start(number)) is not None]
    return Benched(
        variant=variant,
        engine=engine,
        latencies=tuple(latencies),
        throughputs=tuple(throughputs),
        rss_mib=memory.get("rss_mib", {}),
        peak_rss_mib=memory.get("peak_rss_mib"),
        cold_starts_ms=tuple(cold),
        failures=tuple(dict.fromkeys(runner.failures)),
    )


class _Runner:
    """Starts the processes of one variant and notes those that fail."""

    def __init__(self, setup: Setup, variant: str, tell: Callable[[str], None]) -> None:
        self.failures: list[str] = []
        self._setup = setup
        self._variant = variant
        self._tell = tell

    def latency(self, threads: int) -> Latency | None:
        counts = {"iterations": self._setup.iterations, "warmup": self._setup.warmup}
        found = self._call("doorstep.bench_child:latency", f"latency, threads: {threads}", threads, counts)
        if not found:
            return None
        ordered = sorted(found["latencies_ms"])
        first, p50, third, p95, p99 = (percentile(ordered, share) for share in (25, 50, 75, 95, 99))
        return Latency(threads, p50, p95, p99, third - first, found["energy_mj"])

    def throughput(self, threads: int, batch: int) -> Throughput | None:
        subject = f"throughput, threads: {threads}, batch: {batch}"
        values = {"items": self._setup.items, "batch": batch, "rounds": _ROUNDS}
        found = self._call("doorstep.bench_child:throughput", subject, threads, values)
        return Throughput(threads, batch, found["items_per_s"], found["peak_rss_mib"]) if found else None

    def memory(self) -> dict[str, Any]:
        threads = self._setup.threads[0]
        return self._call("doorstep.bench_child:memory", "memory", threads, {}, imports=("numpy", "doorstep"))

    def cold_start(self, number: int) -> float | None:
        threads = self._setup.threads[0]
        values = {"item": self._setup.item, "task_options": {}, "iterations": 0, "warmup": 0}
        found = self._call("doorstep.measure:answer", f"cold start {number + 1}", threads, values)
        return 1e3 * (found["first"] - found["spawned"]) if found else None

    def _call(
        self, function: str, subject: str, threads: int, values: dict[str, Any], imports: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        self._tell(f"{self._variant}: {subject}")
        plan = {
            "bundle": self._setup.bundle,
            "variant": self._variant,
            "threads": threads,
            "items": [self._setup.item],
            **values,
        }
        try:
            return call_fresh(Call(function, plan, self._setup.cpus, imports), self._variant)
        except EngineError as error:
            self.failures.append(str(error))
            return {}
