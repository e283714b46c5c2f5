"""What the fresh processes of a bench do: each takes a plan and returns plain figures."""

import statistics
import time
from typing import Any

from doorstep.energy import EnergyMeter
from doorstep.fresh_child import memory_mib
from doorstep.golden import Example, item_of
from doorstep.predictor import Predictor


def memory(plan: dict[str, Any]) -> dict[str, Any]:
    """Load, predict once, and tell the memory after each."""
    predictor = _load(plan)
    loaded = memory_mib("VmRSS")
    predictor.predict(_items(predictor, plan)[0])
    return {
        "rss_mib": {"load": loaded, "first predict": memory_mib("VmRSS")},
        "peak_rss_mib": memory_mib("VmHWM"),
    }


def latency(plan: dict[str, Any]) -> dict[str, Any]:
    """Time one item, over and over, and the energy it takes."""
    predictor = _load(plan)
    item = _items(predictor, plan)[0]
    for _ in range(plan["warmup"]):
        predictor.predict(item)
    latencies_ms = []
    with EnergyMeter() as meter:
        for _ in range(plan["iterations"]):
            start = time.perf_counter()
            predictor.predict(item)
            latencies_ms.append(1e3 * (time.perf_counter() - start))
    spent = meter.spent_mj
    return {"latencies_ms": latencies_ms, "energy_mj": None if spent is None else spent / plan["iterations"]}


def throughput(plan: dict[str, Any]) -> dict[str, Any]:
    """Answer all items in batches, some rounds of it after a short one."""
    predictor = _load(plan)
    items, batch = _items(predictor, plan), plan["batch"]
    predictor.predict_many(items[: 2 * batch], batch_size=batch)
    seconds = []
    for _ in range(plan["rounds"]):
        start = time.perf_counter()
        predictor.predict_many(items, batch_size=batch)
        seconds.append(time.perf_counter() - start)
    return {"items_per_s": len(items) / statistics.median(seconds), "peak_rss_mib": memory_mib("VmHWM")}


def _load(plan: dict[str, Any]) -> Predictor:
    return Predictor.load(plan["bundle"], variant=plan["variant"], threads=plan["threads"], strict=True)


def _items(predictor: Predictor, plan: dict[str, Any]) -> list[Any]:
    return [item_of(predictor.bundle, Example(item, {})) for item in plan["items"]]
