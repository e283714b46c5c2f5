"""Vectors out: cut (Kusupati et al. 2022), scaled to length 1, as float32, int8 or bits. Exact, and in no graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.results import Vector
from doorstep.tensors import Array, Feeds, Fetches

if TYPE_CHECKING:
    from doorstep.explain import Run

PRECISIONS = ("float32", "int8", "binary")


class VectorOptions(NamedTuple):
    """What becomes of a model's vectors.

    Attributes:
        is_normalized: vectors have length 1.
        dimensions: numbers kept of each vector, from the first on; 0 for all.
        precision: `float32`; `int8`, scaled by each vector's largest number; `binary`, one bit a number, eight a byte.
    """

    is_normalized: bool = True
    dimensions: int = 0
    precision: str = "float32"


class VectorForm:
    """Turns fetches into vectors."""

    def __init__(self, options: VectorOptions) -> None:
        if options.precision not in PRECISIONS:
            raise FormatError(f"precision: expected {', '.join(PRECISIONS)}, got {options.precision!r}")
        if options.dimensions < 0 or (options.precision == "binary" and options.dimensions % 8):
            raise FormatError(f"dimensions: expected 0 or more, for binary a multiple of 8, got {options.dimensions}")
        self._options = options

    def results(self, fetches: Fetches) -> list[Vector]:
        """Return one vector a row."""
        pooled = self.vectors(fetches)
        if self._options.precision == "int8":
            scales = np.maximum(np.abs(pooled).max(axis=1), 1e-12) / 127  # [batch]
            whole = np.rint(pooled / scales[:, None]).astype(int)
            return [
                Vector(tuple(row), "int8", float(scale))
                for row, scale in zip(whole.tolist(), scales.tolist(), strict=True)
            ]
        if self._options.precision == "binary":
            return [Vector(tuple(row), "binary") for row in np.packbits(pooled > 0, axis=1).tolist()]
        return [Vector(tuple(row)) for row in pooled.tolist()]

    def vectors(self, fetches: Fetches) -> Array:
        """Return vectors [batch, dimensions] float32, cut and scaled."""
        pooled = next(iter(fetches.values())).astype(np.float32, copy=False)
        wanted = self._options.dimensions
        if wanted > pooled.shape[1]:
            raise FormatError(f"dimensions: the model gives {pooled.shape[1]}, got {wanted}")
        pooled = pooled[:, :wanted] if wanted else pooled
        if self._options.is_normalized:
            lengths = np.sqrt(np.square(pooled).sum(axis=1, keepdims=True))
            pooled = pooled / np.maximum(lengths, 1e-12)
        return pooled


ITSELF, REFERENCE = "itself", "reference"


class Comparing:
    """What tasks share whose results are vectors: an explanation is about one cosine, to a reference or to itself."""

    _target: Array | None = None
    _name = ITSELF

    def prepare(self, items: Sequence[Any]) -> Sequence[Any]:
        """As of a `Task`."""
        raise NotImplementedError

    def collate(self, rows: Sequence[Any]) -> Feeds:
        """As of a `Task`."""
        raise NotImplementedError

    def vectors(self, fetches: Fetches) -> Array:
        """Return vectors [batch, dimensions] float32, cut and scaled."""
        raise NotImplementedError

    def against(self, reference: Any, run: "Run") -> Self:
        """Return this task with scores that are cosines to a reference: an item, or its `Vector`.

        Raises:
            InputError: it is no item, or a vector of bits or of another length.
        """
        return self._towards(REFERENCE, self._vector(reference, run))

    def about(self, item: Any, label: str | None, run: "Run") -> Self:
        """Return this task with scores that are cosines to the item's own vector, where it has no reference yet."""
        return self._towards(ITSELF, self._vector(item, run)) if self._target is None else self

    def best(self, fetches: Fetches, rows: Sequence[Any]) -> str:
        """Return what rows are compared with."""
        return self._name

    def scores(self, fetches: Fetches, rows: Sequence[Any], label: str) -> list[float]:
        """Return the cosine of each row.

        Raises:
            InputError: a vector has no label.
        """
        if label != self._name:
            raise InputError(f"label: a vector has none, got {label!r:.60}; give an item to compare with as reference")
        found, target = self.vectors(fetches), self._target
        if target is None or target.shape != found.shape[1:]:
            raise InputError(
                f"reference: expected {found.shape[1]} numbers, got {0 if target is None else len(target)}"
            )
        told: list[float] = (_unit(found) @ _unit(target[None])[0]).tolist()
        return told

    def _towards(self, name: str, target: Array) -> Self:
        from copy import copy  # a start does without it

        other = copy(self)
        other._name, other._target = name, target
        return other

    def _vector(self, item: Any, run: "Run") -> Array:
        if not isinstance(item, Vector):
            made: Array = self.vectors(run(self.collate(self.prepare([item]))))[0]  # [dimensions]
            return made
        if item.precision == "binary":
            raise InputError("reference: expected a vector of numbers, got one of bits; give the item itself")
        return np.array(item.values, np.float32)  # a scale changes no cosine


def _unit(vectors: Array) -> Array:
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    scaled: Array = vectors / np.maximum(lengths, 1e-12)
    return scaled
