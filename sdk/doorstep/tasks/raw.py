"""tensors: a model whose task doorstep does not interpret. Named arrays in, nested lists out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from doorstep.bundle import Bundle
from doorstep.errors import InputError
from doorstep.given import names_of
from doorstep.results import Tensors
from doorstep.tasks.labelling import strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

_ACCEPTED = {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}
"""NumPy kind of an input to the kinds that become it without losing what they say."""


class RawTensors:
    """Dicts of arrays to `Tensors`; an item has no batch axis where the model's inputs have one."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in inputs}

    def prepare(self, items: Sequence[Any]) -> Sequence[dict[str, Array]]:
        return [self._row(item, place) for place, item in enumerate(items)]

    def length(self, row: dict[str, Array]) -> int:
        return sum(array.size for array in row.values())

    def collate(self, rows: Sequence[dict[str, Array]]) -> Feeds:
        try:
            return {name: np.stack([row[name] for row in rows]) for name in self._specs}
        except ValueError as error:
            raise InputError("items of different shapes cannot share a batch; use batch_size=1") from error

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Tensors]:
        count = min(len(array) for array in fetches.values())
        return [Tensors({name: array[place].tolist() for name, array in fetches.items()}) for place in range(count)]

    def _row(self, item: Any, place: int) -> dict[str, Array]:
        if not isinstance(item, dict) and len(self._specs) == 1:
            item = {next(iter(self._specs)): item}
        if not isinstance(item, dict) or item.keys() != self._specs.keys():
            got = names_of(item) if isinstance(item, dict) else type(item).__name__
            raise InputError(f"item {place}: expected a dict of {', '.join(self._specs)}, got {got:.100}")
        return {name: self._array(spec, item[name], place) for name, spec in self._specs.items()}

    def _array(self, spec: TensorSpec, value: Any, place: int) -> Array:
        try:
            found, wanted = np.asarray(value), np.dtype(spec.dtype)
            if found.size > 0 and found.dtype.kind not in _ACCEPTED[wanted.kind]:
                raise TypeError(f"it holds {found.dtype}")
            array = found.astype(wanted, copy=False)
            if wanted.kind in "iu" and not np.array_equal(array, found):
                raise ValueError("a number is out of range")
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"item {place}: {spec.name} is no array of {spec.dtype} ({error!s:.100})") from error
        axes = spec.shape[1:]
        fits = array.ndim == len(axes) and all(
            isinstance(axis, str) or axis == got for axis, got in zip(axes, array.shape, strict=False)
        )
        if not fits:
            raise InputError(f"item {place}: {spec.name} expects shape {list(axes)}, got {list(array.shape)}")
        return array


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> RawTensors:
    """Load the task; it has no options."""
    strict_options({}, overrides, set())
    return RawTensors(inputs)
