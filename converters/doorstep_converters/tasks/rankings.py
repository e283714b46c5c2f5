"""What the crafts of rankings share: how two rankings are compared, and what a right one is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.craft import Craft

OVERLAP = 0.95


class RankedCraft(Craft):
    """Answers are ids and their scores, best first; truths are the ids that are right."""

    metric = "ndcg@10"

    def overlap(self, expected: Mapping[str, float], got: Mapping[str, float]) -> float:
        """Return how much of the best is the same (0 to 1)."""
        return overlap(expected, got)

    def compare(self, expected: Any, got: Any, truth: Sequence[Any] | None) -> Parity:
        """Agreement is the mean overlap of the best."""
        overlaps = [self.overlap(one, other) for one, other in zip(expected, got, strict=True)]
        figure = reference = found = None
        if truth is not None:
            figure, reference = self.figure(got, truth), self.figure(expected, truth)
            rights = [(list(answer), self.rights(right)) for answer, right in zip(got, truth, strict=True)]
            found = float(np.mean([recall(ranked, relevant) for ranked, relevant in rights]))
        agreement = float(np.mean(overlaps)) if overlaps else 1.0
        return Parity(len(overlaps), agreement, self.error(expected, got), figure, reference, None, self.metric, found)

    def rights(self, truth: Any) -> set[str]:
        """Return the ids that are right for one item."""
        return set(truth)

    def failure(self, plan: VariantPlan, parity: Parity, bound: Bound) -> str:
        return parity.failure(Bound(OVERLAP, bound.drop) if bound == Bound() else bound)

    def figure(self, answers: Sequence[Mapping[str, float]], truth: Sequence[Any]) -> float:
        rights = map(self.rights, truth)
        return float(np.mean([ndcg(list(answer), right) for answer, right in zip(answers, rights, strict=True)]))


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the share of the first's ids that the second has too (0 to 1)."""
    return len(one.keys() & other.keys()) / max(1, len(one))


def recall(ranked: Sequence[str], relevant: set[str], count: int = 10) -> float:
    """Return the share of the relevant ids that are among the first `count` (0 to 1); 0 where none is relevant."""
    return len(relevant & set(ranked[:count])) / max(1, len(relevant))


def ndcg(ranked: Sequence[str], relevant: set[str], count: int = 10) -> float:
    """Return nDCG of the first `count` ids, gains of 1 (Järvelin & Kekäläinen 2002)."""
    gains = [1 / np.log2(place + 2) for place, id_ in enumerate(ranked[:count]) if id_ in relevant]
    ideal = [1 / np.log2(place + 2) for place in range(min(count, len(relevant)))]
    return float(sum(gains) / sum(ideal)) if ideal else 0.0
