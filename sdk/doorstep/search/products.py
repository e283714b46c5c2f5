"""What is known of each product: rows of JSON read only when shown, and columns that filters look at."""

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.given import is_endless, plain, told
from doorstep.tensors import Array

ROWS, STARTS, IDS, NUMBERS, FIELDS = "rows.jsonl", "starts.npy", "ids.npy", "numbers.npy", "fields.json"
_MOST_NAMES = 65_536  # distinct texts of a field that can be filtered by
_LARGEST = float(np.finfo(np.float32).max)


class Column(NamedTuple):
    """One field of every product: numbers float32 (NaN for none), or places in `names` int32 (-1 for none)."""

    values: Array
    names: tuple[str, ...] | None = None

    def read(self, wanted: Any, field: str) -> "Between | list[Any]":
        """Return what a filter wants: a value, a list of values, or `{"min": …, "max": …}`.

        Raises:
            InputError: the field does not hold such values.
        """
        if isinstance(wanted, Mapping):
            if self.names is not None or not wanted or wanted.keys() - {"min", "max"}:
                raise InputError(f"filters: {field}: expected min and max of a number, got {told(wanted, 60)}")
            return Between(_number(wanted.get("min", -np.inf), field), _number(wanted.get("max", np.inf), field))
        values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        if self.names is None:
            return [_number(value, field) for value in values]
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"filters: {field}: expected texts, got {told(wanted, 60)}")
        return list(values)

    def mask(self, wanted: Any, field: str) -> Array:
        """Return which products have what is wanted.

        Raises:
            InputError: as `read`.
        """
        found = self.read(wanted, field)
        if isinstance(found, Between):
            between: Array = (self.values >= found.low) & (self.values <= found.high)
            return between
        if self.names is None:
            return np.isin(self.values, np.array(found, np.float32))
        chosen = set(found)
        return np.isin(self.values, [place for place, name in enumerate(self.names) if name in chosen])


class Between(NamedTuple):
    """Numbers from `low` to `high`, both included; infinite where there is no bound."""

    low: float
    high: float


class Products:
    """Products by number; `row` parses one when it is asked for."""

    def __init__(self, rows: Any, starts: Array, ids: Array, numbers: Array, columns: dict[str, Column]) -> None:
        self._rows, self._starts = rows, starts
        self._ids, self._numbers = ids, numbers
        self.columns = columns

    @classmethod
    def open(cls, file: Callable[[str], Path]) -> "Products":
        """Map the files that `write` wrote; `file` gives the verified place of each."""
        with open(file(ROWS), "rb") as handle:
            rows = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        starts, ids, numbers = (mapped(file(name)) for name in (STARTS, IDS, NUMBERS))
        try:
            fields: dict[str, Any] = json.loads(file(FIELDS).read_bytes())
            columns = {
                name: Column(mapped(file(f"field-{place}.npy")), None if names is None else tuple(names))
                for place, (name, names) in enumerate(fields.items())
            }
        except (ValueError, AttributeError, TypeError) as error:
            raise FormatError(f"{FIELDS}: expected names of fields ({error!s:.100})") from error
        if len(starts) < 1 or int(starts[-1]) != len(rows) or len(ids) != len(starts) - 1 != len(numbers):
            raise FormatError(f"{STARTS}: expected the bounds of every row of {ROWS}")
        return cls(rows, starts, ids, numbers, columns)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, number: int) -> dict[str, Any]:
        """Return what is known of a product."""
        found: dict[str, Any] = json.loads(self._rows[int(self._starts[number]) : int(self._starts[number + 1])])
        return found

    def number_of(self, id_: str) -> int | None:
        """Return a product's number; None for an id that is not in the catalogue."""
        key = id_key(id_)
        place = int(np.searchsorted(self._ids, np.uint64(key)))
        if place == len(self._ids) or int(self._ids[place]) != key:
            return None
        return int(self._numbers[place])

    def mask(self, filters: Mapping[str, Any], elsewhere: Collection[str] = ()) -> Array | None:
        """Return which products pass every filter, None without any.

        Args:
            elsewhere: fields that other products of the same catalogue have; where these lack one, none passes.

        Raises:
            InputError: a field that the catalogue lacks, or that does not hold such values.
        """
        self.check(filters, elsewhere)
        kept: Array | None = None
        for field, wanted in filters.items():
            if field not in self.columns:
                return np.zeros(len(self), bool)
            found = self.columns[field].mask(wanted, field)
            kept = found if kept is None else kept & found
        return kept

    def check(self, filters: Mapping[str, Any], elsewhere: Collection[str] = ()) -> None:
        """Refuse filters that `mask` cannot apply, without looking at a product.

        Raises:
            InputError: as `mask`.
        """
        for field, wanted in filters.items():
            if field in self.columns:
                self.columns[field].read(wanted, field)
            elif field not in elsewhere:
                known = ", ".join(sorted(self.columns)) or "none"
                raise InputError(f"filters: expected some of {known}, got {told(field, 60)}")


def write_products(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the files that `Products.open` maps; every row has an `id`."""
    parts = table(rows)
    (folder / ROWS).write_bytes(parts.rows)
    for name, array in ((STARTS, parts.starts), (IDS, parts.ids), (NUMBERS, parts.numbers)):
        np.save(folder / name, array)
    names = {field: column.names for field, column in parts.columns.items()}
    (folder / FIELDS).write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    for place, column in enumerate(parts.columns.values()):
        np.save(folder / f"field-{place}.npy", column.values)


class Table(NamedTuple):
    """Products as flat arrays."""

    rows: bytes
    starts: Array
    ids: Array
    numbers: Array
    columns: dict[str, Column]

    def products(self) -> Products:
        return Products(self.rows, self.starts, self.ids, self.numbers, self.columns)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay products out as flat arrays.

    Raises:
        InputError: a row without an id, or an id that stands twice.
    """
    texts = [json.dumps(dict(row), ensure_ascii=False).encode(errors="replace") + b"\n" for row in rows]
    keys = np.array([id_key(_id(row, place)) for place, row in enumerate(rows)], np.uint64)
    order = np.argsort(keys, kind="stable")
    if len(np.unique(keys)) != len(keys):
        twice = keys[order][:-1][np.diff(keys[order]) == 0][0]
        raise InputError(f"products: the id of product {int(np.flatnonzero(keys == twice)[1])} stands twice")
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Table(b"".join(texts), starts, keys[order], order.astype(np.int32), _columns(rows))


def mapped(path: Path) -> Array:
    """Map an array file.

    Raises:
        FormatError: it is none.
    """
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{path.name}: expected a NumPy array ({error!s:.100})") from error
    return array


def id_key(id_: str) -> int:
    """Return 64 bits that stand for an id."""
    return int.from_bytes(hashlib.blake2b(id_.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _id(row: Mapping[str, Any], place: int) -> str:
    id_ = row.get("id")
    if not isinstance(id_, str) or not id_:
        raise InputError(f"product {place}: expected an id (str), got {told(id_)}")
    return id_


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    fields: dict[str, None] = {}
    for row in rows:
        fields.update(dict.fromkeys(name for name in row if name != "id"))
    found = {}
    for field in fields:
        values = [row.get(field) for row in rows]
        if all(value is None or isinstance(value, (int, float)) for value in values):
            found[field] = Column(np.array([np.nan if v is None else float(v) for v in values], np.float32))
        elif all(value is None or isinstance(value, str) for value in values):
            names = _names(values)
            if len(names) <= _MOST_NAMES:
                places = {name: place for place, name in enumerate(names)}
                codes = [-1 if value is None else places[str(value)] for value in values]
                found[field] = Column(np.array(codes, np.int32), names)
    return found


def _names(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values if value is not None}))


def _number(value: Any, field: str) -> float:
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or is_endless(found) or math.isnan(found):
        raise InputError(f"filters: {field}: expected a number, got {told(value)}")
    return float(found) if abs(found) <= _LARGEST else math.copysign(math.inf, found)
