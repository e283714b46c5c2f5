"""The items a model ranks: vectors near to what a history asks for, and what was counted after it, in one score."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.given import plain_row, plain_rows
from doorstep.recommend.content import Content
from doorstep.recommend.transitions import PARTS, Followers, Transitions
from doorstep.search.growing import Growing, shown
from doorstep.search.products import Products, mapped, table, write_products
from doorstep.search.vectors import ExactVectors, GraphVectors, Vectors, build_graph, top, unit
from doorstep.tensors import Array

EXACT_NUMBERS = 8_000_000
"""Items × dimensions up to which every item is compared; beyond, a graph is walked."""

_POOL = 500  # neighbours that a graph gives at least
_VECTORS, _GRAPH, _CONTENT = "vectors.npy", "vectors.usearch", "content.npy"


class Blend(NamedTuple):
    """How counts join the model's cosine: `cosine + counted · ln(1 + sharpness · share)`.

    Attributes:
        counted: what the counts weigh; 0 leaves them out.
        sharpness: how soon a share of the transitions is as good as a larger one.
        decay: what an item of the history counts beside the one after it (0 to 1).
    """

    counted: float = 0.07
    sharpness: float = 100.0
    decay: float = 0.4


class Ranked(NamedTuple):
    """An item's row and its score."""

    row: dict[str, Any]
    score: float


class Items(Growing):
    """Items that can be ranked, added and removed. Numbers of added items begin behind the bundle's own."""

    def __init__(
        self, products: Products, vectors: Vectors, table_: Array, transitions: Transitions, content: Content | None
    ) -> None:
        super().__init__(products)
        self._near = vectors
        self._is_walked = isinstance(vectors, GraphVectors)
        self._table = table_  # [items, dimensions]: what the model reads of an item
        self._transitions = transitions
        self.content = content
        self._view = _View({}, np.zeros(0, np.int64), None, np.zeros((0, table_.shape[1]), np.float32), None)

    @classmethod
    def open(cls, file: Callable[[str], Path], names: Collection[str], fields: Sequence[str]) -> "Items":
        """Map what `write_items` wrote; `file` gives the verified place of a file, `names` are those there are."""
        products = Products.open(file)
        vectors = mapped(file(_VECTORS))
        if vectors.ndim != 2 or len(vectors) != len(products):
            raise FormatError(f"{_VECTORS}: expected a vector for each of {len(products)} items")
        near: Vectors = GraphVectors.open(file(_GRAPH)) if _GRAPH in names else ExactVectors(vectors)
        if len(near) != len(products):
            raise FormatError(f"{_GRAPH}: expected {len(products)} items, got {len(near)}")
        parts = {part: mapped(file(f"after-{part}.npy")) for part in PARTS}
        content = Content(mapped(file(_CONTENT)), fields) if _CONTENT in names else None
        return cls(products, near, vectors, Transitions(**parts).check(len(products)), content)

    def number_of(self, id_: str) -> int | None:
        """Return an item's number, also of one that was taken out; None for an id nobody knows.

        An item of the bundle keeps its number when its row is replaced, and with it what was learnt of it.
        """
        number = self._products.number_of(id_)
        return self._view.places.get(id_) if number is None else number

    def vector(self, number: int) -> Array:
        """Return an item's vector, [dimensions] float32."""
        base, view = len(self._products), self._view
        vector: Array = self._table[number] if number < base else view.vectors[number - base]
        return vector

    def describe(self, row: Mapping[str, Any], subject: str = "product") -> Array:
        """Return the vector of an item by its fields: [dimensions] float32; `subject` is what errors call it.

        Raises:
            InputError: the bundle knows nothing of its items but ids, or the row has none of the fields.
        """
        if self.content is None:
            raise InputError(f"{subject}: this bundle knows items by their ids alone, without fields")
        return self.content.vector(plain_row(row, subject), subject)

    def add_described(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add items that nobody has taken yet, by their fields, or replace the rows of those with the same ids.

        Raises:
            InputError: as `describe` and `add`.
        """
        plain = plain_rows(rows)
        vectors = [self._vector_for(row, f"product {place}") for place, row in enumerate(plain)]
        self.add(plain, np.array(vectors, np.float32))

    def rank(
        self,
        interest: Array,
        history: Sequence[int],
        seen: Sequence[int],
        count: int,
        filters: Mapping[str, Any],
        blend: Blend,
    ) -> list[Ranked]:
        """Return the best `count` items.

        Args:
            interest: [dimensions] float32, what the model makes of the history; a unit vector.
            history: numbers of items whose followers count, newest first; -1 for one that is in no catalogue.
            seen: numbers of items that are left out.

        Raises:
            InputError: a filter does not fit the catalogue.
        """
        view = self._view
        known = self._fields(view)
        mask = shown(self._products.mask(filters, known), view.hidden)
        followers = self._transitions.after(history if blend.counted else (), blend.decay)
        numbers, scores = self._candidates(interest, followers, seen, count, mask, blend)
        best = top(scores, count)
        found = [Ranked(self._products.row(int(numbers[n])), float(scores[n])) for n in best.tolist()]
        if view.products is not None:
            mask = view.products.mask(filters, known)
            sums = view.vectors @ interest + _bonus(followers, blend, view.numbers)  # [added]
            sums[np.isin(view.numbers, seen) if mask is None else ~mask | np.isin(view.numbers, seen)] = -np.inf
            places = [place for place in top(sums, count).tolist() if np.isfinite(sums[place])]
            found += [Ranked(view.products.row(place), float(sums[place])) for place in places]
            found = sorted(found, key=lambda item: -item.score)[:count]
        return found

    def check(self, filters: Mapping[str, Any]) -> None:
        """Refuse filters that `rank` cannot apply.

        Raises:
            InputError: as `rank`.
        """
        view = self._view
        for products in (self._products, view.products):
            if products is not None:
                products.check(filters, self._fields(view))

    def score(self, interest: Array, history: Sequence[int], number: int, blend: Blend) -> float:
        """Return the score that one item has for a history."""
        followers = self._transitions.after(history, blend.decay)
        return float(self.vector(number) @ interest) + float(_bonus(followers, blend, np.array([number]))[0])

    def _fields(self, view: "_View") -> set[str]:
        return {*self._products.columns, *(view.products.columns if view.products is not None else ())}

    def _candidates(
        self, interest: Array, followers: Followers, seen: Sequence[int], count: int, mask: Array | None, blend: Blend
    ) -> tuple[Array, Array]:
        """Return numbers and scores of all that was counted after the history and of the nearest, without those seen.

        A bonus is never negative. So the best of the sum are among the counted ones and the nearest.
        """
        numbers = followers.numbers if mask is None else followers.numbers[mask[followers.numbers]]
        wanted = count + len(seen)
        near = self._near.nearest(interest, max(_POOL, wanted) if self._is_walked else wanted, mask)
        every = np.union1d(numbers, near.numbers)
        every = every[~np.isin(every, seen)]
        return every, self._table[every] @ interest + _bonus(
            followers, blend, every
        )  # exact also where a graph was walked

    def _vector_for(self, row: Mapping[str, Any], subject: str) -> Array:
        number = self._products.number_of(str(row.get("id")))
        return self.describe(row, subject) if number is None else self.vector(number)

    def _show(self, rows: list[dict[str, Any]], vectors: Array, hidden: Array | None) -> None:
        base, dimensions = len(self._products), self._table.shape[1]
        if rows and vectors.shape[1:] != (dimensions,):
            raise InputError(f"products: expected vectors of {dimensions} numbers, got {list(vectors.shape[1:])}")
        ids = [str(row["id"]) for row in rows]
        own = [self._products.number_of(id_) for id_ in ids]
        numbers = [base + place if number is None else number for place, number in enumerate(own)]
        products = table(rows).products() if rows else None
        places = dict(zip(ids, numbers, strict=True))
        self._view = _View(places, np.array(numbers, np.int64), products, vectors.reshape(-1, dimensions), hidden)


def _bonus(followers: Followers, blend: Blend, numbers: Array) -> Array:
    """Return what counts add to the scores of items: [numbers] float32."""
    if not len(followers.numbers):
        return np.zeros(len(numbers), np.float32)
    places = np.minimum(np.searchsorted(followers.numbers, numbers), len(followers.numbers) - 1)
    shares = np.where(followers.numbers[places] == numbers, followers.shares[places], 0.0)
    found: Array = (blend.counted * np.log1p(blend.sharpness * shares)).astype(np.float32)
    return found


class _View(NamedTuple):
    """What one ranking sees beyond the bundle's own items.

    Attributes:
        places: id of an added item to its number.
        numbers, vectors: of the added items, [added] int64 and [added, dimensions] float32.
        hidden: [items] bool, items of the bundle that are not shown; None where all are.
    """

    places: dict[str, int]
    numbers: Array
    products: Products | None
    vectors: Array
    hidden: Array | None


def write_items(
    rows: Sequence[Mapping[str, Any]], vectors: Array, transitions: Transitions, folder: Path,
    projection: Array | None = None, exact: int = EXACT_NUMBERS,
) -> None:  # fmt: skip
    """Write the files that `Items.open` maps; for the workshop.

    Args:
        vectors: [rows, dimensions] float32; they are scaled to length 1.
        projection: of `fit_content`; None where items have no fields.
        exact: items × dimensions up to which no graph is built.
    """
    write_products(rows, folder)
    scaled = unit(vectors).astype(np.float32)
    np.save(folder / _VECTORS, scaled)
    if scaled.size > exact:
        build_graph(scaled, folder / _GRAPH)
    for part in PARTS:
        np.save(folder / f"after-{part}.npy", getattr(transitions, part))
    if projection is not None:
        np.save(folder / _CONTENT, projection.astype(np.float16))
