"""How vectors are judged: by their cosine with the checkpoint's."""

from collections.abc import Mapping, Sequence

import numpy as np

from doorstep.tensors import Array
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan

EXACT_COSINE, LOSSY_COSINE = 0.999, 0.98


def matrix(answers: Sequence[Mapping[str, float]]) -> Array:
    """Return flat vectors as an array [items, dimensions]."""
    return np.array([list(answer.values()) for answer in answers], np.float32)


def flat_vectors(vectors: Array) -> list[dict[str, float]]:
    """Return vectors [items, dimensions] as answers."""
    return [{f"vector[{place}]": round(value, 7) for place, value in enumerate(row)} for row in vectors.tolist()]


def compare_vectors(expected: Sequence[Mapping[str, float]], got: Sequence[Mapping[str, float]], metric: str) -> Parity:
    """Agreement is the mean cosine with the checkpoint's vectors."""
    one, other = matrix(expected), matrix(got)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)
    error = float(np.abs(one - other).max()) if np.isfinite(other).all() else float("inf")
    return Parity(len(one), float(cosines.mean()), error, None, None, None, metric)


def vector_failure(plan: VariantPlan, parity: Parity, bound: Bound) -> str:
    """Return why a variant must not be packed; "" where it may."""
    wanted = bound.agreement
    if bound == Bound():
        wanted = LOSSY_COSINE if plan.is_lossy else EXACT_COSINE
    return "" if parity.agreement >= wanted else f"mean cosine {parity.agreement:.4f} is below {wanted}"
