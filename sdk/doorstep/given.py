"""Values as users give them: NumPy scalars become Python's, and any value can be named in an error.

`repr` raises for a list nested too deep and for a whole number of more than 4,300 digits, and spells out a list of any
length; an error about such a value must still be an error about it.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from doorstep.errors import InputError

_MOST_BITS = 1000  # of a whole number; float64 holds it, and it can be written in digits


def plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's value of the fewest digits (`float32(0.1)` as 0.1), all else as it is."""
    if isinstance(value, np.floating):
        return float(value) if isinstance(value, float) else float(str(value))
    return value.item() if isinstance(value, (np.integer, np.bool_, np.str_)) else value


def is_endless(value: Any) -> bool:
    """Tell whether a value is a whole number that no float holds."""
    return isinstance(value, int) and value.bit_length() > _MOST_BITS


def told(value: Any, limit: int = 40) -> str:
    """Return a value as an error shows it, in at most `limit` characters."""
    from reprlib import Repr  # only errors need it

    short = Repr()
    short.maxstring = short.maxother = limit
    try:
        return " ".join(short.repr(plain(value)).split())[:limit]
    except ValueError:  # a whole number of too many digits, here or inside
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def names_of(item: Mapping[Any, Any]) -> str:
    """Return the first keys of a dict as an error shows them."""
    return ", ".join(key[:80] if isinstance(key, str) else told(key) for key in islice(item, 20))[:80] or "nothing"


def plain_rows(rows: Any, subject: str = "product") -> list[dict[str, Any]]:
    """Return rows of fields, each as `plain_row` does.

    Raises:
        InputError: they are no rows; the place of the wrong one is named.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise InputError(f"{subject}s: expected a list of dicts, got {type(rows).__name__}")
    return [plain_row(row, f"{subject} {place}") for place, row in enumerate(rows)]


def plain_row(row: Any, subject: str) -> dict[str, Any]:
    """Return a row of fields with NumPy's scalars as Python's.

    Raises:
        InputError: it is no dict of names to what JSON holds.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{subject}: expected a dict of fields, got {type(row).__name__}")
    for name in row:
        if not isinstance(name, str):
            raise InputError(f"{subject}: expected texts as names of its fields, got {told(name)}")
    return {str(name): _json_value(plain(value), f"{subject}: {name:.60}") for name, value in row.items()}


def _json_value(value: Any, subject: str) -> Any:
    if is_endless(value):
        raise InputError(f"{subject}: expected a number that float64 holds, got {told(value)}")
    if value is None or isinstance(value, (str, int, float)):
        return value
    if not isinstance(value, (list, tuple, dict)):
        raise InputError(f"{subject}: expected a text, a number, None, a list or a dict, got {told(value)}")
    try:
        return json.loads(json.dumps(value, default=_inside))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{subject}: expected what JSON holds ({error!s:.80}), got {told(value)}") from error


def _inside(value: Any) -> Any:
    """Return a NumPy scalar inside a list as Python's, for `json`.

    Raises:
        TypeError: it is none.
    """
    found = plain(value)
    if found is value:
        raise TypeError(f"it holds {type(value).__name__}")
    return found
