"""The taught corpus: texts with the teacher's answers, in Arrow files that may be far larger than memory.

A folder of `00000.arrow`, `00001.arrow`, … in the corpus's order, and `taught.json`, which says what the columns are.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter

from doorstep.errors import DataError
from doorstep.files import write_atomic
from doorstep.tensors import Array

INDEX = "taught.json"
EXTRAS = ("vector", "relations")
"""What a corpus may hold beside logits: the teacher's vector of each text, and what attention relations are made of."""
_MAX_LINE = 4 << 20
_MAX_INDEX = 1 << 20


@dataclass(frozen=True, slots=True)
class Taught:
    """What a taught corpus holds.

    Attributes:
        labels: classes of the logits, in order.
        extras: which of `EXTRAS` are there.
        width: numbers of a text's vector; 0 where there is none.
        heads: attention heads of the teacher; 0 where there are no relations.
    """

    rows: int
    labels: tuple[str, ...]
    extras: tuple[str, ...] = ()
    width: int = 0
    heads: int = 0


def features(extras: tuple[str, ...]) -> Features:
    """Return the columns: text, label (place, −1 for none), logits, and the extras.

    `relations` holds query, key and value of the teacher's last layer [tokens · 3 · width] float16, and `tokens` the
    teacher's ids they belong to.
    """
    columns: dict[str, Any] = {"text": Value("string"), "label": Value("int32"), "logits": List(Value("float32"))}
    if "vector" in extras:
        columns["vector"] = List(Value("float16"))
    if "relations" in extras:
        columns |= {"tokens": List(Value("int32")), "relations": List(Value("float16"))}
    return Features(columns)


def write_shard(path: Path, rows: dict[str, list[Any]], extras: tuple[str, ...]) -> None:
    """Write one Arrow file aside, then its digest beside it, so that half a file is never taken for a whole one."""
    aside = path.with_suffix(".writing")
    with ArrowWriter(path=str(aside), features=features(extras)) as writer:
        writer.write_batch(rows)
        writer.finalize()
    aside.replace(path)
    write_atomic(path.with_suffix(".sha256"), _digest(path).encode())


def write_answers(path: Path, corpus: Dataset, start: int, logits: Array) -> None:
    """Write as many rows of a corpus, from `start`, as there are `logits` [rows, classes], which take their place."""
    table = corpus.with_format("arrow")[start : start + len(logits)]
    column = pyarrow.array(list(logits.astype(np.float32)), pyarrow.list_(pyarrow.float32()))
    with ArrowWriter(path=str(path), features=corpus.features) as writer:
        writer.write_table(table.set_column(table.column_names.index("logits"), "logits", column))
        writer.finalize()


def is_whole(path: Path) -> bool:
    """Tell whether a shard is there and holds the bytes that were written."""
    try:
        return path.with_suffix(".sha256").read_text(encoding="ascii") == _digest(path)
    except (OSError, ValueError):
        return False


def write_index(folder: Path, taught: Taught) -> None:
    """Write `taught.json`, the last file of a corpus."""
    write_atomic(folder / INDEX, json.dumps(asdict(taught)).encode())


def read_index(folder: Path) -> Taught:
    """Read `taught.json`.

    Raises:
        DataError: it is not there or not whole; the teacher did not finish.
    """
    try:
        with open(folder / INDEX, "rb") as file:
            plain = json.loads(file.read(_MAX_INDEX))
        return Taught(plain["rows"], tuple(plain["labels"]), tuple(plain["extras"]), plain["width"], plain["heads"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: expected a taught corpus with {INDEX}; ask the teacher first ({error!s:.100})"
        ) from error


def open_taught(folder: Path) -> Dataset:
    """Map the corpus into memory; a page is read when a row on it is used.

    Raises:
        DataError: a file is missing, damaged, or holds other columns.
    """
    index = read_index(folder)
    paths = sorted(folder.glob("*.arrow"))
    try:
        parts = [Dataset.from_file(str(path)) for path in paths]
    except Exception as error:  # pyarrow raises several kinds of its own
        raise DataError(f"{folder}: a file of the taught corpus is damaged ({error!s:.100}); teach again") from error
    if not parts or sum(len(part) for part in parts) != index.rows:
        raise DataError(f"{folder}: expected {index.rows} taught texts, got {sum(map(len, parts))}; teach again")
    return concatenate_datasets(parts)


def read_corpus(path: Path) -> Iterator[tuple[str, str | None]]:
    """Read texts and labels, one line at a time, from a `.jsonl` file of `{"text": …, "label": …}`.

    A row without a label, or with null, is unlabelled.

    Raises:
        DataError: a line is no JSON object with a text, or too long.
    """
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            try:
                row = json.loads(line)
                text, label = row["text"], row.get("label")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(f"{path}:{number}: expected an object with a text ({error!s:.80})") from error
            if not isinstance(text, str) or not isinstance(label, (str, type(None))):
                raise DataError(f"{path}:{number}: expected a text and a label or null, got {label!r:.40}")
            yield text, label


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
