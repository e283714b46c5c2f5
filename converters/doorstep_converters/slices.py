"""Slices of labelled texts: the value of a column for each text; many different numbers become four ranges."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from doorstep.errors import DataError
from doorstep_converters.data import read_column

_MOST = 12  # distinct numbers that are still names, not measurements
_PARTS = 4


def read_slices(source: Path, column: str, text_column: str | None = None) -> dict[str, str]:
    """Map each text to its slice.

    Raises:
        DataError: the data has no such column, or it holds the same for every text.
    """
    values = read_column(source, column, text_column)
    found = _ranges(values)
    if len(set(found.values())) < 2:
        raise DataError(f"{source}: column {column!r} has one value for all texts; slices need two or more")
    return found


def _ranges(values: Mapping[str, str]) -> dict[str, str]:
    names = {value for value in values.values() if value}
    if len(names) <= _MOST or not all(_is_number(name) for name in names):
        return dict(values)
    numbers = np.array([float(value) for value in values.values() if value])
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _PARTS + 1)))
    ranges = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]

    def place(value: str) -> str:
        number = int(np.searchsorted(edges, float(value), side="left")) - 1
        return ranges[min(max(number, 0), len(ranges) - 1)]

    return {text: place(value) if value else "" for text, value in values.items()}


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
