"""tabular-classification: what is known of a visit, a basket or an order to labels and probabilities.

The encoders are here and their tables in the bundle, so that a value means on the device what it meant in training.
A field that is absent, None or NaN is missing; a category that training never saw is unseen. Both have codes of
their own.
"""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.given import is_endless, plain, told
from doorstep.results import Classification
from doorstep.tasks.labelling import Labeller, Labelling, LabellingOptions, strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run, Shares
    from doorstep.pieces.fields import FieldPieces

FEEDS = ("numbers", "missing", "categories", "features")
MISSING, UNSEEN, FIRST = 0, 1, 2
"""Codes of categories; the first that training knew has `FIRST`."""

_MOST_CHARACTERS = 10_000
_LONGEST_NAME = 100  # of a wrong field, compared with the right ones
_LARGEST = 3e38
_EDGE = 1.7  # numbers are spread over -1.7 to 1.7, about a standard normal's middle


class Field(NamedTuple):
    """One field of an item.

    Attributes:
        kind: `number` or `category`.
        categories: what training saw, as text, in the order of the codes.
        quantiles: rising values of a number at even shares of the training data.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()


class TabularOptions(NamedTuple):
    """Options of tabular-classification, beside those of labelling.

    Attributes:
        is_probability: the graph gives probabilities (trees), not logits.
        is_linear: every field adds to the logits whatever the others are, so that explanations are exact.
    """

    fields: tuple[Field, ...]
    is_probability: bool = False
    is_linear: bool = False


class TabularEncoder:
    """Dicts to arrays. `features` holds raw numbers and codes, NaN where missing, -1 where unseen, as trees like it."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = {field.name: field for field in fields}
        self._numbers = [field for field in fields if field.kind == "number"]
        self._categories = [field for field in fields if field.kind == "category"]
        self._codes = {
            field.name: {name: code for code, name in enumerate(field.categories, FIRST)} for field in self._categories
        }
        if len(self._fields) != len(fields) or len(self._numbers) + len(self._categories) != len(fields) or not fields:
            raise FormatError("fields: expected distinct names, each a number or a category")
        for field in self._numbers:
            if len(field.quantiles) < 2 or list(field.quantiles) != sorted(set(field.quantiles)):
                raise FormatError(f"fields: {field.name}: expected two or more rising quantiles")

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each feed; where no field is of a kind, its feed is one column of missing values."""
        numbers, categories = len(self._numbers), len(self._categories)
        return {
            "numbers": max(1, numbers),
            "missing": max(1, numbers),
            "categories": max(1, categories),
            "features": numbers + categories,
        }

    def encode(self, item: Any, place: int) -> dict[str, Array]:
        """Return one row of every feed.

        Raises:
            InputError: no dict, no known field, an unknown field, or a value of the wrong type.
        """
        if not isinstance(item, dict) or not item:
            got = "an empty one" if isinstance(item, dict) else type(item).__name__
            raise InputError(f"item {place}: expected a dict of fields, got {got}")
        for name in item:
            if name not in self._fields:
                near = get_close_matches(name[:_LONGEST_NAME], self._fields, 1) if isinstance(name, str) else ()
                hint = f"; is it {near[0]!r}?" if near else f"; known: {', '.join(self._fields)}"[:300]
                raise InputError(f"item {place}: no field {told(name, 60)}{hint}")
        raw = np.array([_number(plain(item.get(f.name)), f.name, place) for f in self._numbers], np.float32)
        codes = [self._code(f.name, plain(item.get(f.name)), place) for f in self._categories]
        missing = np.isnan(raw)
        scaled = [
            0.0 if math.isnan(value) else _spread(value, f)
            for value, f in zip(raw.tolist(), self._numbers, strict=True)
        ]
        as_numbers = [math.nan if code == MISSING else -1.0 if code == UNSEEN else code - FIRST for code in codes]
        return {
            "numbers": np.array(scaled or [0.0], np.float32),
            "missing": missing.astype(np.float32) if scaled else np.ones(1, np.float32),
            "categories": np.array(codes or [MISSING], np.int64),
            "features": np.concatenate([raw, np.array(as_numbers, np.float32)]),
        }

    def _code(self, name: str, value: Any, place: int) -> int:
        if is_missing(value):
            return MISSING
        if not isinstance(value, (str, int, float)) or (isinstance(value, str) and len(value) > _MOST_CHARACTERS):
            raise InputError(f"item {place}: {name}: expected a short text or a number, got {type(value).__name__}")
        if is_endless(value) or (isinstance(value, float) and math.isinf(value)):
            raise InputError(f"item {place}: {name}: expected a finite number that float64 holds, got {told(value)}")
        if isinstance(value, (bool, float)) and value == int(value):
            value = int(value)
        return self._codes[name].get(str(value), UNSEEN)


class TabularClassification(Labelling):
    """Dicts of fields to classifications."""

    def __init__(
        self,
        encoder: TabularEncoder,
        inputs: Sequence[TensorSpec],
        labeller: Labeller,
        is_probability: bool,
        is_linear: bool = False,
    ) -> None:
        widths = encoder.widths
        for spec in inputs:
            if spec.name not in FEEDS or (isinstance(spec.shape[-1], int) and spec.shape[-1] != widths[spec.name]):
                raise FormatError(f"inputs: fields give {widths}, the model takes {spec.name} {list(spec.shape)}")
        self._encoder = encoder
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}
        self._labeller = labeller
        self._is_probability = is_probability
        self._is_linear = is_linear

    def prepare(self, items: Sequence[Any]) -> Sequence[dict[str, Array]]:
        return [self._encoder.encode(item, place) for place, item in enumerate(items)]

    def length(self, row: dict[str, Array]) -> int:
        return 0

    def collate(self, rows: Sequence[dict[str, Array]]) -> Feeds:
        return {name: np.stack([row[name] for row in rows]).astype(dtype) for name, dtype in self._dtypes.items()}

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        scores = next(iter(fetches.values()))  # [batch, classes]
        if self._is_probability:
            scores = np.log(np.maximum(scores, 1e-12))
        return self._labeller.classify(scores)

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "FieldPieces":
        """Take a dict to the fields that have a value, for `explain`."""
        from doorstep.pieces.fields import FieldPieces

        self._encoder.encode(item, 0)
        names = [name for name, value in item.items() if not is_missing(value)]
        return FieldPieces(item, names, max_parts, lambda changed: self._encoder.encode(changed, 0))

    def shares(self, pieces: "FieldPieces", label: str | None, run: "Run") -> "Shares | None":
        """Return what each field brings to the label's logit, None where the model is not linear."""
        if not self._is_linear:
            return None
        from doorstep.pieces.linear import field_shares

        return field_shares(self, pieces, label, run)

    def logits(self, fetches: Fetches, label: str) -> Array:
        """Return a label's logit for each row [batch]; of probabilities, its log-odds against the others' mean."""
        if not self._is_probability:
            return super().logits(fetches, label)
        probabilities = np.maximum(next(iter(fetches.values())).astype(np.float64), 1e-12)  # [batch, classes]
        place, told = self._labeller.labels.index(label), np.log(probabilities)
        found: Array = told[:, place] - np.delete(told, place, axis=1).mean(axis=1)
        return found


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> TabularClassification:
    """Load encoders and labels from the bundle."""
    known = {*TabularOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    options = build(plain, TabularOptions, "options")
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    encoder = TabularEncoder(options.fields)
    return TabularClassification(encoder, inputs, labeller, options.is_probability, options.is_linear)


def is_missing(value: Any) -> bool:
    """Tell whether a value says that nothing is known."""
    found = plain(value)
    return found is None or (isinstance(found, str) and not found) or (isinstance(found, float) and math.isnan(found))


def _number(value: Any, name: str, place: int) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)):
        raise InputError(f"item {place}: {name}: expected a number, got {type(value).__name__} {told(value)}")
    if abs(value) > _LARGEST:
        raise InputError(f"item {place}: {name}: expected a finite number that float32 holds, got {told(value)}")
    return float(value)


def _spread(value: float, field: Field) -> float:
    """Return a number's place among the quantiles, -1.7 to 1.7."""
    share = float(np.interp(value, field.quantiles, np.linspace(0, 1, len(field.quantiles))))
    return (2 * share - 1) * _EDGE
