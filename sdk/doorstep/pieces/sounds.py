"""The segments of a recording, silenced."""

from collections.abc import Sequence
from itertools import pairwise

from doorstep.explanation import Segment
from doorstep.tensors import Array

_SHORTEST_S = 0.05


class SoundPieces:
    """Segments of equal length.

    Args:
        samples: [samples] float32 at `rate` a second, which is the task's row.
    """

    def __init__(self, samples: Array, rate: int, max_parts: int) -> None:
        self._samples = samples
        self._rate = rate
        count = max(1, min(max_parts, int(len(samples) / rate / _SHORTEST_S)))
        self._spans = list(pairwise(len(samples) * number // count for number in range(count + 1)))

    def __len__(self) -> int:
        return len(self._spans)

    def without(self, places: Sequence[int]) -> Array:
        """Return a copy with silence in some segments."""
        changed = self._samples.copy()
        for place in places:
            changed[slice(*self._spans[place])] = 0
        return changed

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Segment, ...]]:
        segments = zip(self._spans, weights, strict=True)
        return {"segments": tuple(Segment(a / self._rate, b / self._rate, weight) for (a, b), weight in segments)}
