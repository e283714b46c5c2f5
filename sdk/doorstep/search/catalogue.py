"""A catalogue that is searched: the bundle's products and those added since, by words, pieces and vectors."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import FormatError
from doorstep.search.growing import Growing, shown
from doorstep.search.postings import PARTS, Postings, build_postings
from doorstep.search.products import Products, mapped, table, write_products
from doorstep.search.vectors import EXACT, ExactVectors, GraphVectors, Vectors, build_graph, top, unit
from doorstep.tensors import Array

INDEXES = (("bm25", "words"), ("tfidf", "pieces"))
_VECTORS, _GRAPH = "vectors.npy", "vectors.usearch"


class Weights(NamedTuple):
    """What each score counts in the sum: BM25 (scaled to its best), TF-IDF cosine, vector cosine.

    The first two are weighed by the root of the share of the query's pieces that a product holds.
    """

    words: float = 0.3
    pieces: float = 1.0
    vectors: float = 0.3


class Found(NamedTuple):
    """One product that was found: what is known of it, and its fused score."""

    row: dict[str, Any]
    score: float


class Segment(NamedTuple):
    """Products with everything that finds them."""

    products: Products
    indexes: tuple[Postings, ...]
    vectors: Vectors


class Catalogue(Growing):
    """Products that can be searched, added and removed. Safe to use from several threads."""

    def __init__(self, base: Segment, text_fields: Sequence[str]) -> None:
        super().__init__(base.products)
        self._base = base
        self._fields = tuple(text_fields)
        self._view = _View((base,), (None,))

    @classmethod
    def open(cls, file: Callable[[str], Path], names: Sequence[str], text_fields: Sequence[str]) -> "Catalogue":
        """Map a catalogue; `file` gives the verified place of one of its files, `names` are those it has."""
        products = Products.open(file)
        indexes = tuple(
            Postings(kind, analyzer, len(products), **{part: mapped(file(f"{analyzer}-{part}.npy")) for part in PARTS})
            for kind, analyzer in INDEXES
        )
        is_graph = _GRAPH in names
        vectors: Vectors = GraphVectors.open(file(_GRAPH)) if is_graph else ExactVectors(mapped(file(_VECTORS)))
        if len(vectors) != len(products):
            raise FormatError(f"catalogue: expected {len(products)} vectors, got {len(vectors)}")
        return cls(Segment(products, indexes, vectors), text_fields)

    def text_of(self, row: Mapping[str, Any]) -> str:
        """Return the text that a product is found by."""
        return " ".join(str(row[field]) for field in self._fields if row.get(field) not in (None, ""))

    def search(
        self, text: str, vector: Array, count: int, filters: Mapping[str, Any], weights: Weights, pool: int = 200
    ) -> list[Found]:
        """Return the best `count` products.

        Args:
            vector: [dimensions] float32, a unit vector.
            pool: candidates taken by each score before they are summed.

        Raises:
            InputError: a filter does not fit the catalogue.
        """
        view = self._view
        sums, places = _fused(view, text, vector, filters, weights, pool, [None] * len(view.segments))
        found = []
        for place in top(sums, count).tolist():
            segment, number = places[place]
            found.append(Found(view.segments[segment].products.row(number), float(sums[place])))
        return found

    def check(self, filters: Mapping[str, Any]) -> None:
        """Refuse filters that `search` cannot apply.

        Raises:
            InputError: as `search`.
        """
        view = self._view
        for segment in view.segments:
            segment.products.check(filters, view.fields)

    def score(
        self, id_: str, text: str, vector: Array, filters: Mapping[str, Any], weights: Weights, pool: int = 200
    ) -> float | None:
        """Return the score that `search` gives one product, found or not; None where the catalogue has it not.

        Raises:
            InputError: a filter does not fit the catalogue.
        """
        view = self._view
        wanted = [
            None if number is None or (hidden is not None and hidden[number]) else number
            for number, hidden in zip((s.products.number_of(id_) for s in view.segments), view.hidden, strict=True)
        ]
        place = next(((segment, number) for segment, number in enumerate(wanted) if number is not None), None)
        if place is None:
            return None
        sums, places = _fused(view, text, vector, filters, weights, pool, wanted)
        return float(sums[places.index(place)])

    def _show(self, rows: list[dict[str, Any]], vectors: Array, hidden: Array | None) -> None:
        segments: list[Segment] = [self._base]
        if rows:
            texts = [self.text_of(row) for row in rows]
            indexes = tuple(build_postings(p.kind, p.analyzer, texts, like=p) for p in self._base.indexes)
            segments.append(Segment(table(rows).products(), indexes, ExactVectors(vectors)))
        self._view = _View(tuple(segments), (hidden, None)[: len(segments)])


class _View(NamedTuple):
    """What one search sees: segments, and which numbers of each are hidden."""

    segments: tuple[Segment, ...]
    hidden: tuple[Array | None, ...]

    @property
    def fields(self) -> set[str]:
        """Names of the fields that products of any segment can be filtered by."""
        return {field for segment in self.segments for field in segment.products.columns}


class _Fused(NamedTuple):
    """Sums [candidates], and the segment and number that each is of."""

    sums: Array
    places: list[tuple[int, int]]


class _Candidates(NamedTuple):
    """Products worth a sum, and their scores, each [candidates]."""

    numbers: Array
    words: Array
    pieces: Array
    covered: Array
    vectors: Array


def _fused(
    view: _View,
    text: str,
    vector: Array,
    filters: Mapping[str, Any],
    weights: Weights,
    pool: int,
    wanted: Sequence[int | None],
) -> _Fused:
    """Sum the scores of each segment's candidates, and of the numbers in `wanted`, one a segment or None."""
    masks = [segment.products.mask(filters, view.fields) for segment in view.segments]
    parts = [
        _candidates(segment, shown(mask, hidden), text, vector, pool, number)
        for segment, mask, hidden, number in zip(view.segments, masks, view.hidden, wanted, strict=True)
    ]
    best_words = max((float(part.words.max()) for part in parts if len(part.words)), default=0.0) or 1.0
    sums = np.concatenate([_sum(part, best_words, weights) for part in parts])
    places = [(segment, number) for segment, part in enumerate(parts) for number in part.numbers.tolist()]
    return _Fused(sums, places)


def _candidates(
    segment: Segment, mask: Array | None, text: str, vector: Array, pool: int, wanted: int | None
) -> _Candidates:
    matches = [index.look_up(text) for index in segment.indexes]
    words, pieces = (found.scores() for found in matches)
    if mask is not None:
        words, pieces = np.where(mask, words, 0.0), np.where(mask, pieces, 0.0)
    near = segment.vectors.nearest(vector, pool, mask).numbers
    lexical = [_best(scores, pool) for scores in (words, pieces)]
    also = np.array([] if wanted is None else [wanted], np.int64)
    numbers = np.unique(np.concatenate([near, *lexical, also])).astype(np.int64)
    covered = np.sqrt(matches[1].shares()[numbers])  # letters in common say little where most of the query is missing
    return _Candidates(numbers, words[numbers], pieces[numbers], covered, segment.vectors.scores(vector, numbers))


def _sum(part: _Candidates, best_words: float, weights: Weights) -> Array:
    lexical = weights.words * part.words / best_words + weights.pieces * part.pieces
    total: Array = part.covered * lexical + weights.vectors * part.vectors
    return total


def _best(scores: Array, pool: int) -> Array:
    """Return the numbers of the best scores above 0."""
    places = top(scores, pool)
    kept: Array = places[scores[places] > 0]
    return kept


def write_catalogue(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], vectors: Array, folder: Path, exact: int = EXACT
) -> None:
    """Write the files that `Catalogue.open` maps; for the workshop.

    Args:
        vectors: [rows, dimensions] float32; they are scaled to length 1.
        exact: products up to which vectors are kept as they are, and no graph is built.
    """
    write_products(rows, folder)
    for kind, analyzer in INDEXES:
        postings = build_postings(kind, analyzer, texts)
        for part in PARTS:
            np.save(folder / f"{analyzer}-{part}.npy", getattr(postings, part))
    scaled = unit(vectors).astype(np.float32)
    if len(rows) <= exact:
        np.save(folder / _VECTORS, scaled)
    else:
        build_graph(scaled, folder / _GRAPH)
