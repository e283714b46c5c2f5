"""next-item: every test history through the device's own code, and how long one answer takes over many items."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from doorstep import Predictor
from doorstep.measure import percentile
from doorstep.recommend.items import Blend, Items, write_items
from doorstep.recommend.transitions import MOST, Transitions
from doorstep_converters.tasks.next_item_data import read_sequences
from doorstep_converters.tasks.rankings import ndcg

_QUERIES, _HISTORY = 200, 20


def ranking_figures(bundle: Path, data: Path, variant: str) -> dict[str, float]:
    """Return HR@10 and nDCG@10 over all test histories; all items that a history does not hold are ranked."""
    test = read_sequences(data).test
    with Predictor.load(bundle, variant=variant, threads=1, strict=True) as predictor:
        ranked = predictor.predict_many([history for history, _ in test], batch_size=128)
    hits = [target in result.ids for (_, target), result in zip(test, ranked, strict=True)]
    gains = [ndcg(result.ids, {target}) for (_, target), result in zip(test, ranked, strict=True)]
    return {"hr@10": round(float(np.mean(hits)), 4), "ndcg@10": round(float(np.mean(gains)), 4), "histories": len(test)}


def ranking_latency(items: int, dimensions: int) -> dict[str, Any]:
    """Measure p50 and p95 (ms) of ranking `items` made-up items, each with as many followers as are kept of one."""
    generator = np.random.default_rng(20261124)
    vectors = generator.standard_normal((items, dimensions)).astype(np.float32)
    starts = np.arange(items + 1, dtype=np.int64) * MOST
    followers = generator.integers(0, items, items * MOST).astype(np.int32)
    weights = generator.random(items * MOST).astype(np.float16) / MOST
    rows = [{"id": str(number), "price": float(number % 100), "shelf": f"s{number % 20}"} for number in range(items)]
    with tempfile.TemporaryDirectory() as place:
        write_items(rows, vectors, Transitions(starts, followers, weights), Path(place))
        names = [path.name for path in Path(place).iterdir()]
        catalogue = Items.open(lambda name: Path(place) / name, names, ())
        found: dict[str, Any] = {"items": items, "dimensions": dimensions}
        for name, filters in (("", {}), ("filtered ", {"shelf": "s3", "price": {"max": 50}})):
            times = []
            for _ in range(_QUERIES):
                history = generator.integers(0, items, _HISTORY).tolist()
                interest = catalogue.vector(history[0])
                start = time.perf_counter()
                catalogue.rank(interest, history, history, 10, filters, Blend())
                times.append(1e3 * (time.perf_counter() - start))
            ordered = sorted(times[10:])
            found |= {f"{name}p{share}_ms": round(percentile(ordered, share), 3) for share in (50, 95)}
    return found
