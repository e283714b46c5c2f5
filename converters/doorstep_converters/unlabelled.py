"""Texts that nobody labelled, read one at a time, so that there may be more of them than memory holds."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from doorstep.errors import DataError
from doorstep_converters.data import records_of, text_column

_PLAIN = ".txt"
_BATCH = 2048
_MAX_LINE = 1 << 20


def read_texts(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield the texts of a file: `.txt` holds one a line, a table or JSON lines hold them in a column.

    Blank texts are left out.

    Raises:
        DataError: missing, of another kind, not UTF-8, a line of more than 1 MiB, or without a column of texts.
    """
    if not path.is_file():
        raise DataError(f"unlabelled: {path}: no such file")
    texts = _lines(path) if path.name.lower().endswith(_PLAIN) else _column(path, column)
    yield from (text for text in texts if text.strip())


def without_leaks(texts: Iterable[str], held_out: Sequence[str]) -> Iterator[str]:
    """Yield the texts that are no held-out text, nor nearly one; see `augment.filter.Leaks`."""
    from doorstep_converters.augment.filter import Leaks

    leaks, rest = Leaks(held_out), iter(texts)
    while batch := list(islice(rest, _BATCH)):
        yield from (text for text, is_leak in zip(batch, leaks.find(batch), strict=True) if not is_leak)


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            while line := file.readline(_MAX_LINE):
                if len(line) == _MAX_LINE:
                    raise DataError(f"unlabelled: {path}: expected one text a line, got a line of more than 1 MiB")
                yield line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"unlabelled: {path}: expected UTF-8, byte {error.start} is none; convert it: iconv") from error
    except OSError as error:
        raise DataError(f"unlabelled: {path}: cannot be read ({error.strerror})") from error


def _column(path: Path, column: str | None) -> Iterator[str]:
    for number, record in enumerate(records_of(path), 1):
        text = record.get(text_column(record, column, path))
        if not isinstance(text, str):
            raise DataError(f"unlabelled: {path}: row {number}: expected a text, got {text!r:.40}")
        yield text
