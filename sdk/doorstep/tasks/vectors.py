"""Vectors out: cut (Kusupati et al. 2022), scaled to length 1, as float32, int8 or bits. Exact, and in no graph."""

from typing import NamedTuple

import numpy as np

from doorstep.errors import FormatError
from doorstep.results import Vector
from doorstep.tensors import Array, Fetches

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
