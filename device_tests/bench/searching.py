"""search: every test query through the device's own code, with words and letters and by vectors alone."""

from pathlib import Path
from typing import Any

import numpy as np

from doorstep import Predictor
from doorstep.measure import Plan, measure
from doorstep.predictor import LoadOptions
from doorstep_converters.tasks.rankings import ndcg
from doorstep_converters.tasks.search import read_catalogue

_WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "vectors alone ": {"weights": {"words": 0.0, "pieces": 0.0, "vectors": 1.0}},
}


def search_figures(bundle: Path, data: Path, variant: str) -> dict[str, float]:
    """Return nDCG@10, recall@1 and recall@10 over all test queries, bytes of the encoder, and p50 (ms) of one thread.

    `vector p50_ms` is the encoder without the catalogue, for the same text: the middle one of the queries by length.
    """
    test = read_catalogue(data).test
    found: dict[str, float] = {}
    for name, options in _WAYS.items():
        with Predictor.load(
            bundle, variant=variant, threads=1, strict=True, options=LoadOptions(task_options=options)
        ) as predictor:
            ranked = [[hit.id for hit in one.hits] for one in predictor.predict_many([row["query"] for row in test])]
        pairs = [(ids, set(row["relevant"])) for ids, row in zip(ranked, test, strict=True)]
        found[f"{name}ndcg@10"] = float(np.mean([ndcg(ids, right) for ids, right in pairs]))
        for count in (1, 10):
            recalls = [len(right & set(ids[:count])) / len(right) for ids, right in pairs]
            found[f"{name}recall@{count}"] = float(np.mean(recalls))
    query = sorted((row["query"] for row in test), key=len)[len(test) // 2]
    for name, item in (("p50_ms", query), ("vector p50_ms", {"product": {"id": "timed", "name": query}})):
        found[name] = measure(Plan(str(bundle), variant, item, iterations=300, cold_starts=1)).p50_ms
    found["kb"] = sum(path.stat().st_size for path in (bundle / "variants" / variant).iterdir()) / 1000
    return {name: round(value, 4) for name, value in found.items()}
