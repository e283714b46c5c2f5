"""An item nobody has bought yet: its fields to a vector in the space of the items that are known.

Words and values are hashed into a fixed number of places (Weinberger et al., "Feature hashing for large scale multitask
learning", 2009); a linear map that was fitted on the known items (ridge regression) takes them into the item space.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.given import names_of
from doorstep.search.terms import words
from doorstep.search.vectors import unit
from doorstep.tensors import Array

PLACES = 2048
_RIDGE = 1.0


class Content:
    """Fields of items to vectors.

    Args:
        projection: [PLACES, dimensions] float.
        fields: names of the fields that are read.
    """

    def __init__(self, projection: Array, fields: Sequence[str]) -> None:
        if projection.ndim != 2 or len(projection) != PLACES:
            raise FormatError(f"content: expected [{PLACES}, dimensions], got {list(projection.shape)}")
        self._projection = projection
        self.fields = tuple(fields)

    def vectors(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        """Return unit vectors [rows, dimensions] float32.

        Raises:
            InputError: a row has none of the fields.
        """
        matrix = np.array([self._features(row, f"product {place}") for place, row in enumerate(rows)], np.float32)
        return unit(matrix @ np.asarray(self._projection, np.float32))

    def vector(self, row: Mapping[str, Any], subject: str) -> Array:
        """Return one row's unit vector [dimensions] float32; `subject` is what errors call the row.

        Raises:
            InputError: the row has none of the fields.
        """
        return unit(self._features(row, subject) @ np.asarray(self._projection, np.float32))

    def _features(self, row: Mapping[str, Any], subject: str) -> Array:
        features = features_of(row, self.fields)  # [PLACES]
        if not features.any():
            known = ", ".join(self.fields) or "none"
            raise InputError(
                f"{subject}: expected a text or a finite number in one of the fields {known}, got {names_of(row)}"
            )
        return features


def features_of(row: Mapping[str, Any], fields: Sequence[str]) -> Array:
    """Return hashed words and values of a row's fields: [PLACES] float32, of length 1, or zeros without any."""
    features = np.zeros(PLACES, np.float32)
    for field in fields:
        for key in _keys(field, row.get(field)):
            features[key % PLACES] += 1.0 if key & 0x80000000 else -1.0
    return unit(features)


def fit_content(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], vectors: Array) -> Array:
    """Return the map from features to `vectors` [rows, dimensions]: [PLACES, dimensions] float32; for the workshop."""
    gram, right = np.zeros((PLACES, PLACES)), np.zeros((PLACES, vectors.shape[1]))
    for start in range(0, len(rows), 4096):
        part = np.array([features_of(row, fields) for row in rows[start : start + 4096]], np.float32)
        gram += part.T @ part
        right += part.T @ vectors[start : start + 4096]
    solved: Array = np.linalg.solve(gram + _RIDGE * np.eye(PLACES), right).astype(np.float32)
    return solved


def _keys(field: str, value: Any) -> list[int]:
    """Return 32-bit keys: of a text its words and the whole, of a number its size to a quarter of an octave."""
    if isinstance(value, str) and value.strip():
        return [*words(value), _key(f"{field}={value.strip().lower()}")]
    if isinstance(value, (int, float)) and np.isfinite(value):
        size = round(4 * float(np.log2(1 + abs(value)))) * (1 if value >= 0 else -1)
        return [_key(f"{field}~{size}")]
    return []


def _key(term: str) -> int:
    return zlib.crc32(term.encode(errors="surrogatepass"))
