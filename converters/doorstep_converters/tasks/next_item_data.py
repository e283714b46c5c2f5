"""Sequences in: what each visitor took, in order, and what came next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import DataError, InputError
from doorstep.search.products import table
from doorstep_converters.data import find_file, records_of
from doorstep_converters.evaluation import items_digest

_SPLITS = {"train": ("train", "sequences"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
_ITEMS = ("items", "corpus", "products", "catalogue")
_VISITORS, _TAKEN, _TIMES = (
    ("user", "visitor", "session", "customer"),
    ("item", "product"),
    ("time", "timestamp", "date"),
)


@dataclass(frozen=True, slots=True)
class SequenceData:
    """Sequences of item ids in three splits.

    Attributes:
        items: a row for every item, with `id` and what else is known of it.
        fields: the rows' fields beside `id`.
        train: sequences, oldest item first.
        dev, test: pairs of a history and the item that came next; those of test know dev's targets.
        learnt: the sequences with dev's targets, what is known when test begins.
    """

    name: str
    source: Path
    items: tuple[dict[str, Any], ...]
    fields: tuple[str, ...]
    train: tuple[list[str], ...]
    dev: tuple[tuple[list[str], str], ...]
    test: tuple[tuple[list[str], str], ...]
    learnt: tuple[list[str], ...]
    digest: str


def read_sequences(source: Path) -> SequenceData:
    """Read a file of sequences or of single events, or a folder with splits and perhaps a file of items.

    A file without splits is left one out: each visitor's last item is test, the last but one dev.

    Raises:
        DataError: unreadable, no items in order, or nothing to learn from.
    """
    paths = {split: find_file(source, stems) for split, stems in _SPLITS.items()} if source.is_dir() else {}
    train = paths.get("train") if source.is_dir() else source
    if train is None or not train.is_file():
        raise DataError(f"{source}: expected sequences in it, as train.jsonl.gz or sequences.csv")
    whole = dict(_sequences(train))
    if paths.get("test") or paths.get("dev"):
        targets = {split: _targets(paths.get(split), whole) for split in ("dev", "test")}
    else:
        targets = {split: {visitor: taken[-back] for visitor, taken in whole.items() if len(taken) > 2}
                   for split, back in (("dev", 2), ("test", 1))}  # fmt: skip
        whole = {visitor: taken[:-2] if len(taken) > 2 else taken for visitor, taken in whole.items()}
    learnt = {v: [*taken, targets["dev"][v]] if v in targets["dev"] else taken for v, taken in whole.items()}
    if not any(len(taken) > 1 for taken in learnt.values()):
        raise DataError(f"{train}: expected sequences of two items and more, got none")
    items = _items(source, [*learnt.values(), list(targets["test"].values())])
    dev, test = (
        tuple((known[visitor], target) for visitor, target in targets[split].items())
        for split, known in (("dev", whole), ("test", learnt))
    )
    fields = tuple(dict.fromkeys(name for row in items for name in row if name != "id"))
    digest = items_digest([items, list(learnt.values()), dev, test])
    name = source.name.split(".")[0] or "sequences"
    return SequenceData(name, source, items, fields, tuple(whole.values()), dev, test, tuple(learnt.values()), digest)


def _sequences(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (visitor, items) of rows with a list `items`, or of rows with one item each."""
    events: dict[str, list[tuple[Any, int, str]]] = {}
    for number, row in enumerate(records_of(path), 1):
        place = f"{path}: row {number}"
        if isinstance(row.get("items"), list):
            visitor = str(next((row[name] for name in _VISITORS if name in row), number))
            if visitor in events:
                raise DataError(f"{place}: the sequence of {visitor!r:.40} stands twice")
            events[visitor] = [(0, at, _id(value, place)) for at, value in enumerate(row["items"])]
            continue
        who, taken = (next((row[n] for n in names if n in row), None) for names in (_VISITORS, _TAKEN))
        if who is None or taken is None:
            wanted = f"a list items, or {_VISITORS[0]} and {_TAKEN[0]}"
            raise DataError(f"{place}: expected {wanted}, got {', '.join(map(str, row))[:80]}")
        time = next((row[name] for name in _TIMES if row.get(name) not in (None, "")), 0)
        events.setdefault(str(who), []).append((_time(time, place), number, _id(taken, place)))
    for visitor, found in events.items():
        if found:
            yield visitor, [id_ for _, _, id_ in sorted(found)]


def _targets(path: Path | None, whole: Mapping[str, Sequence[str]]) -> dict[str, str]:
    found = {}
    for number, row in enumerate(records_of(path) if path else (), 1):
        visitor = str(next((row[name] for name in _VISITORS if name in row), ""))
        if visitor not in whole or "target" not in row:
            raise DataError(
                f"{path}: row {number}: expected a visitor of the training rows and a target, got {row!s:.80}"
            )
        found[visitor] = _id(row["target"], f"{path}: row {number}")
    return found


def _items(source: Path, sequences: Sequence[Sequence[str]]) -> tuple[dict[str, Any], ...]:
    """Return the rows of the folder's items, and bare rows of ids that only sequences name."""
    path = find_file(source, _ITEMS) if source.is_dir() else None
    rows = {str(row.get("id")): {**row, "id": str(row.get("id"))} for row in (records_of(path) if path else ())}
    try:
        table(list(rows.values()))
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
    for sequence in sequences:
        for id_ in sequence:
            rows.setdefault(id_, {"id": id_})
    return tuple(rows.values())


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DataError(f"{place}: expected ids (text or whole numbers), got {value!r:.40}")
    return str(value)


def _time(value: Any, place: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, texts (ISO 8601) by their letters."""
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        if isinstance(value, str):
            return (1, 0.0, value)
    raise DataError(f"{place}: expected a time as a number or as ISO 8601, got {value!r:.40}")
