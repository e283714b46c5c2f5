"""The items of a history."""

from collections.abc import Sequence
from typing import Any

from doorstep.explanation import Step


class HistoryPieces:
    """The newest `max_parts` items, told oldest first.

    Args:
        row: has `ids`, newest first, and `without(place)`.
    """

    def __init__(self, row: Any, max_parts: int) -> None:
        self._row = row
        self._count = min(len(row.ids), max_parts)

    def __len__(self) -> int:
        return self._count

    def without(self, places: Sequence[int]) -> Any:
        row = self._row
        for place in sorted(places, reverse=True):
            row = row.without(place)
        return row

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Step, ...]]:
        ids, last = self._row.ids, len(self._row.ids) - 1
        steps = [Step(ids[place], last - place, weight) for place, weight in enumerate(weights)]
        return {"steps": tuple(reversed(steps))}
