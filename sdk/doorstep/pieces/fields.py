"""The fields of a dict that have a value, taken for missing."""

from collections.abc import Callable, Sequence
from typing import Any

from doorstep.errors import InputError
from doorstep.explanation import Known
from doorstep.given import plain


class FieldPieces:
    """Fields one by one.

    Args:
        names: of the fields that have a value.
        row_of: an item to the task's row.

    Raises:
        InputError: more fields than `max_parts`; they have no neighbours to be taken together with.
    """

    def __init__(
        self, item: dict[str, Any], names: Sequence[str], max_parts: int, row_of: Callable[[dict[str, Any]], Any]
    ) -> None:
        if len(names) > max_parts:
            raise InputError(f"item: expected at most {max_parts} fields to explain, got {len(names)}; raise max_parts")
        self._item = item
        self._names = names
        self._row_of = row_of

    def __len__(self) -> int:
        return len(self._names)

    def without(self, places: Sequence[int]) -> Any:
        gone = dict.fromkeys(self._names[place] for place in places)  # None, which is missing
        return self._row_of({**self._item, **gone})

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Known, ...]]:
        fields = zip(self._names, weights, strict=True)
        return {"fields": tuple(Known(name, plain(self._item[name]), weight) for name, weight in fields)}
