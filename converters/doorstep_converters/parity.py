"""Parity: the distance from the checkpoint to an artifact, taken in the artifact's own engine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.predictor import LoadOptions, Predictor
from doorstep.tensors import Array
from doorstep_converters.worker import Channel


@dataclass(frozen=True, slots=True)
class Bound:
    """What a variant must reach to be packed: either of the two is enough.

    Attributes:
        agreement: lowest share of evaluation items with the checkpoint's label (0 to 1).
        drop: largest loss of accuracy against the checkpoint, in points (0 to 100), where the data has labels.
    """

    agreement: float = 0.99
    drop: float = 0.5


@dataclass(frozen=True, slots=True)
class Parity:
    """The distance on one set of items.

    Attributes:
        agreement: share of items with the checkpoint's label.
        max_abs_error: largest difference of a probability.
        accuracy, reference_accuracy, macro_f1: of the variant, of the checkpoint, of the variant; None without labels.
        metric: what `accuracy` is: the share of right labels, or another task's figure (0 to 1, higher is better).
        recall_at_10: of rankings, the share of what is right that is among the variant's first ten (0 to 1).
    """

    examples: int
    agreement: float
    max_abs_error: float
    accuracy: float | None
    reference_accuracy: float | None
    macro_f1: float | None
    metric: str = "accuracy"
    recall_at_10: float | None = None

    def failure(self, bound: Bound) -> str:
        """Return why the bound is missed; "" where it is reached."""
        if self.agreement >= bound.agreement:
            return ""
        reason = f"agreement {self.agreement:.4f} is below {bound.agreement}"
        if self.accuracy is None or self.reference_accuracy is None:
            return reason
        drop = 100 * (self.reference_accuracy - self.accuracy)
        return "" if drop <= bound.drop else f"{reason}, and {self.metric} drops {drop:.2f} points (bound {bound.drop})"


def answer(out: Path, channel: Channel, bundle: str, variant: str, texts: str) -> dict[str, Any]:
    """Answer `texts` one by one with one variant, as a device would; a job of `stages`.

    Writes `probabilities.npy` [texts, classes] float32.
    """
    items: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    with Predictor.load(
        bundle, variant=variant, strict=True, options=LoadOptions(task_options={"top_k": 1 << 20})
    ) as predictor:
        labels: list[str] = predictor.manifest.options["labels"]
        places = {label: place for place, label in enumerate(labels)}
        rows = np.zeros((len(items), len(labels)), np.float32)  # [texts, classes]
        for number, item in enumerate(items):
            for score in predictor.predict(item).scores:
                rows[number, places[score.label]] = score.score
            channel.progress((number + 1) / len(items))
    np.save(out / "probabilities.npy", rows)
    return {}


def compare(expected: Array, got: Array, truth: Sequence[int] | None) -> Parity:
    """Compare probabilities [items, classes]; `truth` holds the right class of each item."""
    best, found = expected.argmax(axis=1), got.argmax(axis=1)  # [items]
    accuracy = reference = f1 = None
    if truth is not None:
        from sklearn.metrics import accuracy_score, f1_score

        accuracy, reference = float(accuracy_score(truth, found)), float(accuracy_score(truth, best))
        f1 = float(f1_score(truth, found, average="macro", zero_division=0.0))
    error = float(np.abs(expected - got).max()) if np.isfinite(got).all() else float("inf")
    return Parity(len(best), float((best == found).mean()), error, accuracy, reference, f1)
