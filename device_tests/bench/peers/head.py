"""A linear classifier on sentence embeddings, for peers that only embed. Trained on the train split, NumPy only."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from report import Answers, Job, read  # type: ignore[import-not-found]  # isort: skip

_STEPS = 400
_RATE = 0.05
_DECAY = 1e-4


def fit(job: Job, embed: Callable[[list[str]], Any]) -> None:
    """Train multinomial logistic regression (Adam, full batches) and keep it in the peer's folder."""
    pairs = json.loads(read(job.data))["train"]
    labels = sorted({label for _, label in pairs})
    inputs = np.asarray(embed([text for text, _ in pairs]), np.float32)  # [texts, width]
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
    inputs = np.hstack([(inputs - mean) / spread, np.ones((len(inputs), 1), np.float32)])  # [texts, width + 1]
    wanted = np.eye(len(labels), dtype=np.float32)[[labels.index(label) for _, label in pairs]]  # [texts, classes]
    weights = np.zeros((inputs.shape[1], len(labels)), np.float32)
    slope, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, _STEPS + 1):
        gradient = inputs.T @ (_softmax(inputs @ weights) - wanted) / len(inputs) + _DECAY * weights
        slope = 0.9 * slope + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        weights -= _RATE * (slope / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    scaled = weights[:-1] / spread[:, None]
    np.savez(f"{job.made}/head.npz", weights=scaled, bias=weights[-1] - mean @ scaled, labels=labels)


def answers(job: Job, embed: Callable[[list[str]], Any]) -> Answers:
    """Put the trained head behind `embed`, which makes [texts, width]."""
    with np.load(f"{job.made}/head.npz") as kept:
        weights, bias, labels = kept["weights"], kept["bias"], kept["labels"].tolist()

    def many(texts: list[str]) -> list[str]:
        return [labels[place] for place in (np.asarray(embed(texts)) @ weights + bias).argmax(1)]

    return Answers(lambda text: many([text])[0], many)


def _softmax(logits: Any) -> Any:
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)
