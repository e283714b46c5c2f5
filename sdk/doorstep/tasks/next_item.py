"""next-item: what a visitor took, in order, to what comes next. A small encoder and a catalogue of item vectors.

The graph reads the vectors of the history's items, so an item that was added yesterday can stand in a history too.
Counted transitions are added to the model's cosine, because counting alone is hard to beat.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.given import is_endless, names_of, plain, told
from doorstep.recommend.items import Blend, Items
from doorstep.results import Hit, Ranking
from doorstep.search.vectors import unit
from doorstep.tasks.labelling import strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.histories import HistoryPieces

FOLDER = "items/"
FEEDS = ("vectors", "attention_mask")
MAX_COUNT, MAX_HISTORY = 1000, 10_000
_KEYS = {"items", "filters", "top_k"}


class NextItemOptions(NamedTuple):
    """Options of next-item.

    Attributes:
        max_length: items read of a history, the last ones; all of it is left out of the ranking.
        blend: how counted transitions join the model's cosine.
        content_fields: fields by which items that are added get a vector.
        top_k: items a result lists, where the item says nothing else.
    """

    max_length: int
    blend: Blend = Blend()
    content_fields: tuple[str, ...] = ()
    top_k: int = 10


class Row(NamedTuple):
    """One history, newest item first.

    Attributes:
        ids: of the items that are known.
        numbers: theirs in the catalogue; -1 for one that is known by its fields alone.
        vectors: [items, dimensions] float32.
        skipped: ids that nobody knows.
    """

    ids: tuple[str, ...]
    numbers: tuple[int, ...]
    vectors: Array
    filters: Mapping[str, Any]
    top_k: int
    skipped: tuple[str, ...] = ()

    def without(self, place: int) -> "Row":
        """Return the history without one item."""
        kept = [other for other in range(len(self.ids)) if other != place]
        return self._replace(
            ids=tuple(self.ids[other] for other in kept),
            numbers=tuple(self.numbers[other] for other in kept),
            vectors=self.vectors[kept],
        )


class NextItem:
    """Lists of item ids, or `{"items": […], "filters": …, "top_k": …}`, to rankings."""

    def __init__(self, items: Items, inputs: Sequence[TensorSpec], options: NextItemOptions) -> None:
        self.items = items
        self._options = options
        self._specs = {spec.name: spec for spec in inputs}
        if self._specs.keys() != set(FEEDS):
            raise FormatError(f"inputs: a history gives {', '.join(FEEDS)}, the model takes {', '.join(self._specs)}")
        if options.max_length < 1 or options.top_k < 1 or not 0 <= options.blend.decay <= 1:
            raise FormatError("options: expected max_length and top_k of at least 1, and a decay of 0 to 1")

    def prepare(self, items: Sequence[Any]) -> Sequence[Row]:
        return [self._row(item, place) for place, item in enumerate(items)]

    def length(self, row: Row) -> int:
        return min(len(row.ids), self._options.max_length)

    def collate(self, rows: Sequence[Row]) -> Feeds:
        spec, longest = self._specs["vectors"], max(1, *map(self.length, rows))
        width = spec.shape[1] if isinstance(spec.shape[1], int) else longest
        vectors = np.zeros((len(rows), width, rows[0].vectors.shape[1]), spec.dtype)  # [batch, sequence, dimensions]
        mask = np.zeros((len(rows), width), self._specs["attention_mask"].dtype)  # [batch, sequence]
        for place, row in enumerate(rows):
            read = self.length(row)
            vectors[place, :read] = row.vectors[:read]
            mask[place, :read] = 1
        return {"vectors": vectors, "attention_mask": mask}

    def results(self, fetches: Fetches, rows: Sequence[Row] = ()) -> list[Ranking]:
        return [self._ranking(row, vector) for row, vector in zip(rows, _interests(fetches), strict=True)]

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "HistoryPieces":
        """Take a history to its items, for `explain`."""
        from doorstep.pieces.histories import HistoryPieces

        return HistoryPieces(self._row(item, 0), max_parts)

    def best(self, fetches: Fetches, rows: Sequence[Row]) -> str:
        """Return the id that is ranked first for the first row.

        Raises:
            InputError: nothing is left to rank.
        """
        hits = self.results({name: array[:1] for name, array in fetches.items()}, rows[:1])[0].hits
        if not hits:
            raise InputError("item: nothing is left to rank; drop a filter, or name a label")
        return hits[0].id

    def scores(self, fetches: Fetches, rows: Sequence[Row], label: str) -> list[float]:
        """Return the score that the item with the id `label` has for each row.

        Raises:
            InputError: nobody knows the item.
        """
        number = self.items.number_of(label)
        if number is None:
            raise InputError(f"label: expected the id of an item of the catalogue, got {label!r:.60}")
        return [
            self.items.score(vector, self._read(row), number, self._options.blend)
            for row, vector in zip(rows, _interests(fetches), strict=True)
        ]

    def _read(self, row: Row) -> tuple[int, ...]:
        return row.numbers[: self._options.max_length]

    def _ranking(self, row: Row, interest: Array) -> Ranking:
        found = self.items.rank(interest, self._read(row), row.numbers, row.top_k, row.filters, self._options.blend)
        notes = (f"in no catalogue, skipped: {', '.join(row.skipped)}"[:300],) if row.skipped else ()
        return Ranking(tuple(Hit(item.row["id"], item.score, item.row) for item in found), notes)

    def _row(self, item: Any, place: int) -> Row:
        asked = {"items": item} if isinstance(item, (list, tuple)) else item
        if (
            not isinstance(asked, dict)
            or not asked.keys() <= _KEYS
            or not isinstance(asked.get("items"), (list, tuple))
        ):
            got = names_of(asked) if isinstance(asked, dict) else type(asked).__name__
            raise InputError(
                f"item {place}: expected a list of item ids, or a dict of items, filters, top_k, got {got}"
            )
        history, filters = asked["items"], asked.get("filters")
        count = plain(asked.get("top_k", self._options.top_k))
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise InputError(f"item {place}: top_k: expected 1 to {MAX_COUNT}, got {told(count)}")
        filters = {} if isinstance(filters, (list, type(None))) and not filters else filters
        if not isinstance(filters, dict):
            raise InputError(f"item {place}: filters: expected a dict of field to value, got {type(filters).__name__}")
        try:
            self.items.check(filters)
        except InputError as error:
            raise InputError(f"item {place}: {error}") from error
        if not 1 <= len(history) <= MAX_HISTORY:
            raise InputError(f"item {place}: expected 1 to {MAX_HISTORY} items in a history, got {len(history)}")
        known, skipped = self._look_up(history, place)
        if not known:
            raise InputError(
                f"item {place}: none of its {len(history)} items is in the catalogue ({', '.join(skipped)[:80]}); "
                "add new ones with add_items, or give their fields"
            )
        ids, numbers, vectors = zip(*reversed(known), strict=True)
        return Row(ids, numbers, np.array(vectors, np.float32), filters, count, tuple(skipped))

    def _look_up(self, history: Sequence[Any], place: int) -> tuple[list[tuple[str, int, Array]], list[str]]:
        """Return (id, number, vector) of every item that is known, oldest first, and the ids of the others."""
        known, skipped = [], []
        for at, entry in enumerate(history):
            fields = entry if isinstance(entry, dict) else {}
            id_ = plain(fields.get("id") if fields else entry)
            if type(id_) is int and not is_endless(id_):
                id_ = str(id_)
            if not isinstance(id_, str) or not id_:
                raise InputError(f"item {place}: items[{at}]: expected ids (text or whole numbers), got {told(id_)}")
            number = self.items.number_of(id_)
            if number is not None:
                known.append((id_, number, self.items.vector(number)))
            elif len(fields) > 1 and self.items.content is not None:
                known.append((id_, -1, self.items.describe(fields, f"item {place}: items[{at}]")))
            else:
                skipped.append(id_)
        return known, skipped


def add_items(predictor: Any, items: Sequence[Mapping[str, Any]]) -> None:
    """Add items nobody has taken yet to a loaded next-item, by their fields; the bundle itself stays as it is.

    `predictor.task.items.save(folder)` keeps them, `restore(folder)` brings them back.

    Raises:
        InputError: an item has no id or none of the fields, or this bundle knows items by their ids alone.
    """
    predictor.task.items.add_described(items)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> NextItem:
    """Map the catalogue of items."""
    plain = strict_options(bundle.manifest.options, overrides, set(NextItemOptions._fields))
    options = build(plain, NextItemOptions, "options")
    names = [entry.path.removeprefix(FOLDER) for entry in bundle.manifest.files if entry.path.startswith(FOLDER)]
    items = Items.open(lambda name: Path(bundle.file(FOLDER + name)), names, options.content_fields)
    return NextItem(items, inputs, options)


def _interests(fetches: Fetches) -> Array:
    """Return what the model makes of each history: [batch, dimensions] float32, unit vectors."""
    return unit(next(iter(fetches.values())).astype(np.float32, copy=False))
