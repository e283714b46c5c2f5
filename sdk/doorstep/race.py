"""A short race between variants on this very device, remembered on disk."""

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.bundle import Bundle
from doorstep.decoding import parse_json
from doorstep.device import Device
from doorstep.errors import EngineError, FormatError, MissingExtraError
from doorstep.files import write_atomic
from doorstep.golden import item_of, load_golden
from doorstep.manifest import Variant
from doorstep.selection import Ranking, Verdict, Why

if TYPE_CHECKING:
    from doorstep.predictor import Predictor

_BUDGET_S = 0.2
_RUNNERS = 4  # the best so many variants race
_MAX_CACHE_BYTES = 64 << 10

Open = Callable[[Variant, Why], "Predictor"]


def race(ranking: Ranking, bundle: Bundle, device: Device, opener: Open, cache_dir: str | Path | None) -> Ranking:
    """Return `ranking` with its best variants ordered by measured p50 over the golden examples."""
    runners = ranking.usable[:_RUNNERS]
    place = _cache_file(cache_dir, bundle, device, ranking)
    times = _recall(place)
    if times is None or times.keys() != {variant.name for variant in runners}:
        items = [item_of(bundle, example) for example in load_golden(bundle).examples]
        if not items:
            return ranking
        times = {variant.name: _time(variant, ranking, opener, items) for variant in runners}
        _remember(place, times)
    ordered = sorted(runners, key=lambda variant: times[variant.name])
    verdicts = tuple(_verdict(verdict, times) for verdict in ranking.verdicts)
    rule = "lowest p50 in a race on this device"
    return ranking._replace(usable=(*ordered, *ranking.usable[_RUNNERS:]), rule=rule, verdicts=verdicts)


def _time(variant: Variant, ranking: Ranking, opener: Open, items: list[object]) -> float:
    """Return the median latency in ms; infinity where the variant does not run."""
    try:
        with opener(variant, ranking.why(variant)) as predictor:
            predictor.predict(items[0])
            latencies: list[float] = []
            stop = time.perf_counter() + _BUDGET_S
            while time.perf_counter() < stop or len(latencies) < 3:
                start = time.perf_counter()
                predictor.predict(items[len(latencies) % len(items)])
                latencies.append(1e3 * (time.perf_counter() - start))
    except (EngineError, MissingExtraError):
        return float("inf")
    return statistics.median(latencies)


def _verdict(verdict: Verdict, times: dict[str, float]) -> Verdict:
    if verdict.variant not in times:
        return verdict
    p50 = times[verdict.variant]
    return verdict._replace(reason=f"p50 {p50:.2f} ms here" if p50 < float("inf") else "failed in the race")


def _cache_file(cache_dir: str | Path | None, bundle: Bundle, device: Device, ranking: Ranking) -> Path | None:
    if cache_dir is None:
        return None
    parts = [bundle.digest, device.cpu, str(device.cores), *sorted(ranking.engines.values())]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Path(cache_dir) / "races" / f"{key}.json"


def _remember(place: Path | None, times: dict[str, float]) -> None:
    if place is None:
        return
    plain = {name: None if p50 == float("inf") else p50 for name, p50 in times.items()}
    with contextlib.suppress(OSError):  # a full or read-only disk only means another race next time
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps(plain).encode())


def _recall(place: Path | None) -> dict[str, float] | None:
    """Return remembered times; a damaged file counts as none."""
    if place is None or not place.is_file():
        return None
    with open(place, "rb") as file:
        data = file.read(_MAX_CACHE_BYTES)
    try:
        plain = parse_json(data, str(place))
        return {str(name): float("inf" if p50 is None else p50) for name, p50 in plain.items()}
    except (FormatError, AttributeError, TypeError, ValueError):
        return None
