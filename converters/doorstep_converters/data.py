"""Labelled texts in: CSV, TSV, JSON lines, gzipped or not, one file or a folder of splits."""

import csv
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from doorstep.errors import DataError

SPLITS = ("train", "dev", "test")
_TEXT_COLUMNS = ("text", "sentence", "utterance", "review", "content", "query")
_LABEL_COLUMNS = ("label", "intent", "category", "class", "target")
_FORMATS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev"}
_STEMS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
SEPARATOR = "|"
"""Stands between the labels of a row that has several; alone it says that no label holds."""

_MAX_LINE = 4 << 20
_FEWEST = 20  # rows that can be split by hash


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """Labelled texts in three splits that share no text.

    Attributes:
        name: from the file's or folder's name.
        source: where it was read.
        digest: sha256 over everything that was read.
    """

    name: str
    source: Path
    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    digest: str

    @property
    def labels(self) -> list[str]:
        """Every label, sorted; numbers in their numeric order."""
        return _in_order({row.label for split in (self.train, self.dev, self.test) for row in split})

    @property
    def has_sets(self) -> bool:
        """Whether any row names several labels, or none."""
        return any(SEPARATOR in row.label for split in (self.train, self.dev, self.test) for row in split)

    @property
    def classes(self) -> list[str]:
        """What a head for these rows must answer: every label, also those that stand beside others; sorted."""
        if not self.has_sets:
            return self.labels
        return _in_order({name for label in self.labels for name in names_in(label)})


def names_in(label: str) -> list[str]:
    """Return the labels that a row names: of `late | broken` two, of `|` none."""
    return [name for name in (part.strip() for part in label.split(SEPARATOR)) if name]


def _in_order(names: set[str]) -> list[str]:
    return sorted(names, key=int) if all(name.lstrip("-").isdigit() for name in names) else sorted(names)


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of any columns in three splits, for tasks that are no labelled texts.

    Attributes:
        name, source, digest: as of a `DataSet`.
    """

    name: str
    source: Path
    train: tuple[dict[str, Any], ...]
    dev: tuple[dict[str, Any], ...]
    test: tuple[dict[str, Any], ...]
    digest: str


class Splits(Protocol):
    """What every kind of data has."""

    @property
    def source(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def train(self) -> Sequence[Any]: ...
    @property
    def dev(self) -> Sequence[Any]: ...
    @property
    def test(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns to read; None takes the first usual name that is there."""

    text: str | None = None
    label: str | None = None
    split: str = "split"
    file: str | None = None


def load_data(source: Path, columns: Columns | None = None) -> DataSet:
    """Read a data set.

    A file may have a column `split` (train, dev or validation, test); without one it is split 80/10/10 by the hash of
    each text, within each label, so that adding rows moves no row. A folder holds one file a split.

    Raises:
        DataError: missing, unreadable, no text or label column, empty, not UTF-8, or fewer than two classes.
    """
    columns = columns or Columns()
    if source.is_dir():
        splits = {name: _read_file(path, columns, name) for name, path in _split_files(source).items()}
        rows = [row for part in splits.values() for row in part]
    elif source.is_file():
        rows = _read_file(source, columns, "")
    else:
        raise DataError(f"{source}: no such file or folder")
    if not rows:
        raise DataError(f"{source}: expected labelled texts, got no rows")
    parts = _assign(_distinct(rows))
    name = source.name.split(".")[0] or "data"
    train, dev, test = (tuple(parts[split]) for split in SPLITS)
    data = DataSet(name, source, train, dev, test, _digest(rows))
    _check(data, any(row.split for row in rows))
    return data


def read_column(source: Path, column: str, text: str | None = None) -> dict[str, str]:
    """Map each text to what another column holds beside it; "" where that is empty.

    Raises:
        DataError: missing, unreadable, or without that column.
    """
    paths = list(_split_files(source).values()) if source.is_dir() else [source]
    wanted = Columns(text, column)
    return {row.text: row.label for path in paths for row in _read_file(path, wanted, "train", is_label_needed=False)}


def read_records(source: Path, together: str = "") -> Records:
    """Read rows as they are: a folder with one file a split, or one file with a column `split` or split by hash.

    Args:
        together: a column; rows with the same value in it are in the same split where the hash decides.

    Raises:
        DataError: missing, unreadable, empty, or not UTF-8.
    """
    if source.is_dir():
        found = {name: list(records_of(path)) for name, path in _split_files(source).items()}
    elif source.is_file():
        found = {name: [] for name in SPLITS}
        for record in records_of(source):
            key = record.get(together, record) if together else record
            named = str(record.pop("split", None) or split_by_hash(json.dumps(key, sort_keys=True)))
            named = SPLIT_NAMES.get(named, named)
            if named not in found:
                raise DataError(f"{source}: expected split train, dev or test, got {named!r:.40}")
            found[named].append(record)
    else:
        raise DataError(f"{source}: no such file or folder")
    if not any(found.values()):
        raise DataError(f"{source}: expected rows, got none")
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    train, dev, test = (tuple(found.get(split, ())) for split in SPLITS)
    return Records(source.name.split(".")[0] or "data", source, train, dev, test, digest)


@dataclass(frozen=True, slots=True)
class _Found:
    text: str
    label: str
    split: str


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, stems in _STEMS.items():
        if (path := find_file(folder, stems)) is not None:
            found[name] = path
    if "train" not in found and "test" not in found:
        raise DataError(f"{folder}: expected files like train.csv or test.jsonl.gz in it")
    return found


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the first readable file called like one of `stems`, None where there is none."""
    places = (folder / f"{stem}{ending}" for stem in stems for ending in _FORMATS)
    return next((path for path in places if path.is_file()), None)


def _read_file(path: Path, columns: Columns, split: str, is_label_needed: bool = True) -> list[_Found]:
    return [
        _found(record, path, number, columns, split, is_label_needed)
        for number, record in enumerate(records_of(path), 1)
    ]


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file as they are.

    Raises:
        DataError: another ending than expected, unreadable, or not UTF-8.
    """
    kind = next((ending for ending in _FORMATS if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise DataError(f"{path}: expected one of {', '.join(_FORMATS)}")
    opener: Callable[..., Any] = gzip.open if kind.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield from (
                _json_lines(file, path) if ".jsonl" in kind else _table(file, path, "\t" if "tsv" in kind else ",")
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, byte {error.start} is none; convert it: iconv -t utf-8") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _table(file: Any, path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_MAX_LINE)
    reader = csv.DictReader(file, delimiter=delimiter)
    if not reader.fieldnames:
        raise DataError(f"{path}: expected a header line such as text,label; the file is empty")
    yield from reader


def _json_lines(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: expected one JSON object a line ({error!s:.80})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
        yield record


def _found(
    record: dict[str, Any], path: Path, number: int, columns: Columns, split: str, is_label_needed: bool
) -> _Found:
    text = record.get(text_column(record, columns.text, path))
    label = record.get(column_of(record, columns.label, _LABEL_COLUMNS, "label", path))
    if isinstance(label, list) and all(isinstance(name, (str, int)) for name in label):
        label = SEPARATOR.join(map(str, label)) or SEPARATOR
    if not is_label_needed:
        label = "" if label is None else str(label)
    if not isinstance(text, str) or not isinstance(label, (str, int)):
        raise DataError(f"{path}: row {number}: expected a text and a label, got {text!r:.40} and {label!r:.40}")
    if is_label_needed and not str(label).strip():
        raise DataError(f"{path}: row {number}: the label is empty")
    named = split or str(record.get(columns.split) or "")
    named = SPLIT_NAMES.get(named, named)
    if named and named not in SPLITS:
        raise DataError(f"{path}: row {number}: expected split train, dev or test, got {named!r}")
    label = int(label) if isinstance(label, bool) else label
    return _Found(text, str(label).strip(), named)


def text_column(record: dict[str, Any], wanted: str | None, path: Path) -> str:
    """Return the name of the column that holds the text; `wanted` None takes the first usual one.

    Raises:
        DataError: there is none.
    """
    return column_of(record, wanted, _TEXT_COLUMNS, "text", path)


def column_of(record: dict[str, Any], wanted: str | None, usual: Sequence[str], what: str, path: Path) -> str:
    if wanted is not None and wanted in record:
        return wanted
    if wanted is None:
        for name in usual:
            if name in record:
                return name
    names = ", ".join(str(name) for name in record)
    raise DataError(f"{path}: expected a column {wanted or usual[0]!r}, got {names}; name it with --{what}-column")


def _distinct(rows: Sequence[_Found]) -> list[_Found]:
    """Drop repeated texts; the held-out split keeps its copy, so that nothing is trained on what is tested."""
    rank = {"test": 0, "dev": 1, "": 2, "train": 3}
    kept: dict[str, _Found] = {}
    for row in sorted(rows, key=lambda row: rank[row.split]):
        kept.setdefault(row.text, row)
    return [row for row in rows if kept.get(row.text) is row]


def _assign(rows: Sequence[_Found]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    has_splits = any(row.split for row in rows)
    for row in rows:
        split = row.split or ("train" if has_splits else split_by_hash(f"{row.label}\n{row.text}"))
        parts[split].append(Row(row.text, row.label))
    if has_splits and not parts["dev"]:
        train, parts["train"] = parts["train"], []
        for kept in train:
            is_dev = int(hashlib.sha256(kept.text.encode()).hexdigest(), 16) % 10 == 0
            parts["dev" if is_dev else "train"].append(kept)
    return parts


def split_by_hash(key: str) -> str:
    """Return the split of a row that names none: one in ten is test, one in ten dev."""
    place = int(hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest(), 16) % 10
    return "test" if place == 0 else "dev" if place == 1 else "train"


def _check(data: DataSet, has_splits: bool) -> None:
    counts = Counter(row.label for split in (data.train, data.dev, data.test) for row in split)
    if len(counts) < 2:
        raise DataError(f"{data.source}: expected two or more classes, got only {next(iter(counts))!r}")
    if not (data.dev or data.test) or (counts.total() < _FEWEST and not has_splits):
        raise DataError(
            f"{data.source}: {counts.total()} rows are too few to hold some out; add rows, or a column 'split'"
        )


def _digest(rows: Sequence[_Found]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text, row.label, row.split], ensure_ascii=False).encode(errors="surrogatepass"))
    return digest.hexdigest()
