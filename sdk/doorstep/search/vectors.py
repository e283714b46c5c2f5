"""The nearest vectors: exact in NumPy for a small catalogue, an HNSW graph in `usearch` for a large one.

Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW graphs", 2018.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from doorstep.errors import FormatError, MissingExtraError
from doorstep.tensors import Array

EXACT = 20_000
"""Vectors up to which every one is compared; beyond, a graph is walked."""

_CONNECTIVITY, _BUILD, _SEARCH = 16, 96, 96
_WIDER = 10  # neighbours looked at for each that is wanted, where a filter hides some


class Near(NamedTuple):
    """Neighbours of one query: numbers [k] int64 and cosines [k] float32, best first."""

    numbers: Array
    scores: Array


class Vectors(Protocol):
    """Unit vectors by number."""

    def nearest(self, query: Array, count: int, mask: Array | None = None) -> Near:
        """Return the `count` nearest of `query` [dimensions] float32, a unit vector; `mask` [vectors] bool says which
        may be returned.
        """

    def scores(self, query: Array, numbers: Array) -> Array:
        """Return the cosines of `query` with the vectors `numbers`."""

    def __len__(self) -> int: ...


class ExactVectors:
    """An array [vectors, dimensions], memory-mapped or not."""

    def __init__(self, array: Array) -> None:
        if array.ndim != 2:
            raise FormatError(f"vectors: expected [vectors, dimensions], got {list(array.shape)}")
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def nearest(self, query: Array, count: int, mask: Array | None = None) -> Near:
        scores = self.array @ query.astype(self.array.dtype)  # [vectors]
        if mask is None:
            numbers = top(scores, count)
        else:
            allowed = np.flatnonzero(mask)
            numbers = allowed[top(scores[allowed], count)]
        return Near(numbers, scores[numbers].astype(np.float32))

    def scores(self, query: Array, numbers: Array) -> Array:
        found: Array = (self.array[numbers] @ query.astype(self.array.dtype)).astype(np.float32)
        return found


class GraphVectors:
    """A `usearch` index file, memory-mapped; its int8 vectors rank within 0.01 of exact cosines."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def open(cls, path: Path) -> "GraphVectors":
        """Map an index file.

        Raises:
            MissingExtraError: `usearch` is not installed. FormatError: it cannot read the file.
        """
        try:
            from usearch.index import Index
        except ImportError as error:
            raise MissingExtraError.of("usearch, which walks large catalogues,", "search") from error
        try:
            index = Index.restore(str(path), view=True, expansion_search=_SEARCH)
        except (RuntimeError, ValueError, OSError) as error:
            raise FormatError(f"{path.name}: usearch cannot read it ({error!s:.120})") from error
        if index is None:
            raise FormatError(f"{path.name}: usearch cannot read it")
        return cls(index)

    def __len__(self) -> int:
        return len(self._index)

    def nearest(self, query: Array, count: int, mask: Array | None = None) -> Near:
        """Where few may be returned all of them are compared; else the nearest of `_WIDER` times as many are, and again
        as many times more where those hold too few that may be returned.
        """
        if mask is not None and np.count_nonzero(mask) <= EXACT:
            allowed = np.flatnonzero(mask)
            scores = self.scores(query, allowed)
            best = top(scores, count)
            return Near(allowed[best], scores[best])
        if mask is None:
            return self._walk(query, count)
        wanted = _WIDER * count
        while True:
            near = self._walk(query, wanted)
            kept = mask[near.numbers]
            if np.count_nonzero(kept) >= count or wanted >= len(self):
                return Near(near.numbers[kept][:count], near.scores[kept][:count])
            wanted *= _WIDER

    def _walk(self, query: Array, count: int) -> Near:
        found = self._index.search(query, min(count, len(self)))
        return Near(np.asarray(found.keys, np.int64), 1 - np.asarray(found.distances, np.float32))

    def scores(self, query: Array, numbers: Array) -> Array:
        if len(numbers) == 0:
            return np.zeros(0, np.float32)
        rows = np.asarray(self._index.get(numbers.astype(np.uint64)), np.float32)  # [numbers, dimensions]
        lengths = np.sqrt(np.square(rows).sum(axis=1))
        cosines: Array = rows @ query / np.maximum(lengths, 1e-9)
        return cosines


def build_graph(array: Array, path: Path) -> None:
    """Write an index of unit vectors [vectors, dimensions] float32, stored as int8; for the workshop."""
    from usearch.index import Index

    index = Index(ndim=array.shape[1], metric="cos", dtype="i8", connectivity=_CONNECTIVITY, expansion_add=_BUILD)
    index.add(np.arange(len(array), dtype=np.uint64), array)
    index.save(str(path))


def unit(rows: Array) -> Array:
    """Return rows [..., dimensions] of length 1; rows of zeros stay."""
    lengths = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True))
    scaled: Array = rows / np.maximum(lengths, 1e-12)
    return scaled


def top(scores: Array, count: int) -> Array:
    """Return the places of the `count` largest scores, best first; ties by place."""
    count = min(count, len(scores))
    if count <= 0:
        return np.zeros(0, np.int64)
    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= bound)
    else:
        places = np.arange(len(scores))
    order = np.argsort(-scores[places], kind="stable")
    best: Array = places[order][:count]
    return best
