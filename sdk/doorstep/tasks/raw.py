"""tensors: a model whose task doorstep does not interpret. Named arrays in, nested lists out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from doorstep.bundle import Bundle
from doorstep.errors import InputError
from doorstep.results import Tensors
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec


class RawTensors:
    """Dicts of arrays to `Tensors`; an item has no batch axis where the model's inputs have one."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in inputs}

    def prepare(self, items: Sequence[Any]) -> Sequence[dict[str, Array]]:
        return [self._row(item, place) for place, item in enumerate(items)]

    def length(self, row: dict[str, Array]) -> int:
        return sum(array.size for array in row.values())

    def collate(self, rows: Sequence[dict[str, Array]]) -> Feeds:
        return {name: np.stack([row[name] for row in rows]) for name in self._specs}

    def results(self, fetches: Fetches) -> list[Tensors]:
        count = min(len(array) for array in fetches.values())
        return [Tensors({name: array[place].tolist() for name, array in fetches.items()}) for place in range(count)]

    def _row(self, item: Any, place: int) -> dict[str, Array]:
        if not isinstance(item, dict) and len(self._specs) == 1:
            item = {next(iter(self._specs)): item}
        if not isinstance(item, dict) or item.keys() != self._specs.keys():
            raise InputError(f"item {place}: expected a dict of {', '.join(self._specs)}, got {type(item).__name__}")
        return {name: self._array(spec, item[name], place) for name, spec in self._specs.items()}

    def _array(self, spec: TensorSpec, value: Any, place: int) -> Array:
        try:
            array = np.asarray(value, dtype=spec.dtype)
        except (TypeError, ValueError) as error:
            raise InputError(f"item {place}: {spec.name} is no array of {spec.dtype} ({error!s:.100})") from error
        wanted = spec.shape[1:]
        fits = array.ndim == len(wanted) and all(
            isinstance(axis, str) or axis == got for axis, got in zip(wanted, array.shape, strict=False)
        )
        if not fits:
            raise InputError(f"item {place}: {spec.name} expects shape {list(wanted)}, got {list(array.shape)}")
        return array


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> RawTensors:
    """Load the task; it has no options."""
    return RawTensors(inputs)
