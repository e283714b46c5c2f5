"""A catalogue: the products a bundle came with, those added since, and those taken out.

The bundle's part is memory-mapped and never written. Additions are a second segment, rebuilt whole by each `add`
(0.1 s for a thousand products), and searched with the first; `save` and `restore` keep them beside the bundle.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.files import write_atomic
from doorstep.search.postings import PARTS, Postings, build_postings
from doorstep.search.products import Products, mapped, table, write_products
from doorstep.search.vectors import EXACT, ExactVectors, GraphVectors, Vectors, build_graph, top, unit
from doorstep.tensors import Array

INDEXES = (("bm25", "words"), ("tfidf", "pieces"))
MAX_ADDED = 20_000
_VECTORS, _GRAPH = "vectors.npy", "vectors.usearch"
_MAX_SAVED_BYTES = 256 << 20


class Weights(NamedTuple):
    """What each score counts in the sum: BM25 (scaled to its best), TF-IDF cosine, vector cosine."""

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


class Catalogue:
    """Products that can be searched, added and removed. Safe to use from several threads."""

    def __init__(self, base: Segment, text_fields: Sequence[str]) -> None:
        self._base = base
        self._fields = tuple(text_fields)
        self._added: dict[str, tuple[dict[str, Any], Array]] = {}
        self._removed: set[int] = set()
        self._lock = threading.Lock()
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

    def __len__(self) -> int:
        return len(self._base.products) - len(self._removed) + len(self._added)

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
        parts = [_candidates(s, hidden, text, vector, filters, pool) for s, hidden in zip(view.segments, view.hidden)]
        best_words = max((float(part.words.max()) for part in parts if len(part.words)), default=0.0) or 1.0
        sums = np.concatenate(
            [
                weights.words * part.words / best_words + weights.pieces * part.pieces + weights.vectors * part.vectors
                for part in parts
            ]
        )
        places = [(segment, number) for segment, part in enumerate(parts) for number in part.numbers.tolist()]
        found = []
        for place in top(sums, count).tolist():
            segment, number = places[place]
            found.append(Found(view.segments[segment].products.row(number), float(sums[place])))
        return found

    def add(self, rows: Sequence[Mapping[str, Any]], vectors: Array) -> None:
        """Add products, or replace those with the same ids.

        Args:
            vectors: [rows, dimensions] float32; they are scaled to length 1.

        Raises:
            InputError: ids are missing or repeated, or more than `MAX_ADDED` would be added.
        """
        if len(rows) != len(vectors) or not np.isfinite(vectors).all():
            raise InputError(f"products: expected {len(rows)} vectors of finite numbers, got {len(vectors)}")
        table(rows)
        with self._lock:
            added = dict(self._added)
            for row, vector in zip(rows, unit(np.asarray(vectors, np.float32)), strict=True):
                added[str(row["id"])] = (dict(row), vector)
            if len(added) > MAX_ADDED:
                raise InputError(
                    f"products: expected at most {MAX_ADDED} added ones, got {len(added)}; make a new bundle"
                )
            removed = self._removed | {n for id_ in added if (n := self._base.products.number_of(id_)) is not None}
            self._change(added, removed)

    def remove(self, ids: Sequence[str]) -> int:
        """Take products out; returns how many of the ids were there."""
        with self._lock:
            known = {id_: self._base.products.number_of(id_) for id_ in set(ids)}
            gone = {n for n in known.values() if n is not None} - self._removed
            added = {id_: entry for id_, entry in self._added.items() if id_ not in known}
            count = len({id_ for id_, n in known.items() if n in gone or id_ in self._added})
            self._change(added, self._removed | gone)
            return count

    def save(self, folder: Path) -> None:
        """Keep additions and removals in `folder`, each file replaced in one step."""
        with self._lock:
            rows = [row for row, _ in self._added.values()]
            state = {"added": rows, "removed": sorted(self._removed), "products": len(self._base.products)}
            vectors = np.array([vector for _, vector in self._added.values()], np.float32)
        folder.mkdir(parents=True, exist_ok=True)
        state["vectors"] = vectors.tolist()
        write_atomic(folder / "catalogue.json", json.dumps(state).encode())

    def restore(self, folder: Path) -> None:
        """Take over what `save` kept; a folder without it changes nothing.

        Raises:
            FormatError: it is damaged, or was saved for another bundle.
        """
        path = folder / "catalogue.json"
        if not path.is_file():
            return
        try:
            if path.stat().st_size > _MAX_SAVED_BYTES:
                raise ValueError(f"more than {_MAX_SAVED_BYTES} bytes")
            state = json.loads(path.read_bytes())
            rows, vectors = state["added"], np.array(state["vectors"], np.float32)
            removed = {int(number) for number in state["removed"]}
            if state["products"] != len(self._base.products) or any(n >= state["products"] for n in removed):
                raise ValueError("it belongs to another bundle")
            table(rows)
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            raise FormatError(f"{path}: expected what `save` wrote ({error!s:.100}); remove it") from error
        with self._lock:
            self._change({row["id"]: (row, vector) for row, vector in zip(rows, vectors, strict=True)}, removed)

    def _change(self, added: dict[str, tuple[dict[str, Any], Array]], removed: set[int]) -> None:
        hidden = np.zeros(len(self._base.products), bool)
        hidden[list(removed)] = True
        segments: list[Segment] = [self._base]
        if added:
            rows = [row for row, _ in added.values()]
            texts = [self.text_of(row) for row in rows]
            indexes = tuple(build_postings(p.kind, p.analyzer, texts, like=p) for p in self._base.indexes)
            vectors = ExactVectors(np.array([vector for _, vector in added.values()], np.float32))
            segments.append(Segment(table(rows).products(), indexes, vectors))
        self._added, self._removed = added, removed
        self._view = _View(tuple(segments), (hidden if removed else None, None)[: len(segments)])


class _View(NamedTuple):
    """What one search sees: segments, and which numbers of each are hidden."""

    segments: tuple[Segment, ...]
    hidden: tuple[Array | None, ...]


class _Candidates(NamedTuple):
    """Products worth a sum, and their scores, each [candidates]."""

    numbers: Array
    words: Array
    pieces: Array
    vectors: Array


def _candidates(
    segment: Segment, hidden: Array | None, text: str, vector: Array, filters: Mapping[str, Any], pool: int
) -> _Candidates:
    mask = segment.products.mask(filters)
    if hidden is not None:
        mask = ~hidden if mask is None else mask & ~hidden
    words, pieces = (index.scores(text) for index in segment.indexes)
    if mask is not None:
        words, pieces = np.where(mask, words, 0.0), np.where(mask, pieces, 0.0)
        allowed = np.flatnonzero(mask)
        if len(allowed) <= EXACT:
            near = allowed[top(segment.vectors.scores(vector, allowed), pool)]
        else:
            wider = segment.vectors.nearest(vector, 10 * pool).numbers
            near = wider[mask[wider]][:pool]
    else:
        near = segment.vectors.nearest(vector, pool).numbers
    lexical = [_best(scores, pool) for scores in (words, pieces)]
    numbers = np.unique(np.concatenate([near, *lexical])).astype(np.int64)
    return _Candidates(numbers, words[numbers], pieces[numbers], segment.vectors.scores(vector, numbers))


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
