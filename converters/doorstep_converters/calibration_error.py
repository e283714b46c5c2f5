"""How far confidence is from being right, and the one number that mends most of it.

Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
"""

from collections.abc import Sequence

import numpy as np

from doorstep.tasks import softmax
from doorstep.tensors import Array

_BINS = 15
_TINY = 1e-12
_LOWEST, _HIGHEST = 0.05, 20.0


def expected_calibration_error(probabilities: Array, truth: Sequence[int]) -> float:
    """Return the mean distance of confidence from accuracy over 15 bins, weighted by their size (0 to 1).

    Args:
        probabilities: [items, classes].
    """
    confidence = probabilities.max(axis=1)  # [items]
    is_right = probabilities.argmax(axis=1) == np.asarray(truth)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    total = 0.0
    for number in range(_BINS):
        inside = bins == number
        if inside.any():
            total += inside.sum() * abs(float(confidence[inside].mean()) - float(is_right[inside].mean()))
    return total / len(confidence)


def fit_temperature(probabilities: Array, truth: Sequence[int]) -> float:
    """Return the temperature with the least log loss, by golden-section search over its logarithm.

    Args:
        probabilities: [items, classes], of items that figures are not taken on.
    """
    logits, rows = np.log(np.maximum(probabilities, _TINY)), np.arange(len(truth))
    right = np.asarray(truth)

    def loss(temperature: float) -> float:
        scaled = softmax(logits / temperature)  # [items, classes]
        return float(-np.log(np.maximum(scaled[rows, right], _TINY)).mean())

    ratio = (5**0.5 - 1) / 2
    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    while high - low > 1e-4:
        one, other = high - ratio * (high - low), low + ratio * (high - low)
        if loss(float(np.exp(one))) <= loss(float(np.exp(other))):
            high = other
        else:
            low = one
    return round(float(np.exp((low + high) / 2)), 4)


def tempered(probabilities: Array, temperature: float) -> Array:
    """Return probabilities [items, classes] as they are after logits were divided by `temperature`."""
    if temperature == 1.0:
        return probabilities
    scaled: Array = softmax(np.log(np.maximum(probabilities, _TINY)) / temperature)
    return scaled.astype(np.float32)
