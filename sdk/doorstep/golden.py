"""Golden examples: raw items with the results the checkpoint gave, and how far a device may be off."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from doorstep.bundle import Bundle
from doorstep.decoding import decode_json
from doorstep.results import Classification, Tensors

if TYPE_CHECKING:
    from doorstep.predictor import Predictor

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Example:
    """One golden example.

    Attributes:
        item: what a user gives: a text, nested lists of numbers, or `{"file": path}` for media in the bundle.
        expected: label to probability, or element of an output to value, as the checkpoint gave them.
        tokens: number of tokens, for text; 0 elsewhere.
        token_digest: sha256 over the token ids as decimal text joined by spaces; empty elsewhere.
    """

    item: Any
    expected: dict[str, float]
    tokens: int = 0
    token_digest: str = ""


@dataclass(frozen=True, slots=True)
class Golden:
    """The examples of a bundle.

    Attributes:
        tolerances: variant name to the largest difference of a value that a device may show: what the variant's
            engine showed at conversion, with room for the rounding of other CPUs.
    """

    format: int
    examples: tuple[Example, ...]
    tolerances: dict[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """One golden example that a predictor answers differently."""

    place: int
    expected: str
    got: str
    error: float


def load_golden(bundle: Bundle) -> Golden:
    """Read the golden examples of a bundle.

    Raises:
        IntegrityError, FormatError: missing, altered, or malformed.
    """
    return decode_json(bundle.read(bundle.manifest.golden), Golden, bundle.manifest.golden, FORMAT)


def item_of(bundle: Bundle, example: Example) -> Any:
    """Return an example's item as a user would give it."""
    return raw_item(bundle, example.item)


def raw_item(bundle: Bundle, item: Any) -> Any:
    """Return the bytes behind `{"file": path}`, read from the bundle and verified; any other item as it is."""
    if isinstance(item, dict) and item.keys() == {"file"}:
        return bundle.read(item["file"])
    return item


def compare(predictor: "Predictor", golden: Golden) -> list[Difference]:
    """Answer every golden example and return those with another label or outside the variant's tolerance."""
    tolerance = golden.tolerances.get(predictor.variant.name, 0.0)
    differences = []
    for place, example in enumerate(golden.examples):
        got = flatten(predictor.predict(item_of(predictor.bundle, example)))
        error = max_error(example.expected, got)
        wanted, found = best(example.expected), best(got)
        if wanted != found or not error <= tolerance:
            differences.append(Difference(place, wanted, found, error))
    return differences


def flatten(result: Any) -> dict[str, float]:
    """Return a result as one flat dict of numbers: label to probability, `output[0]` to value, or its own `flat`."""
    if isinstance(result, Classification):
        return {label.label: label.score for label in result.scores}
    if not isinstance(result, Tensors):
        flat: dict[str, float] = result.flat()
        return flat
    return {
        f"{name}[{place}]": float(value)
        for name, values in result.outputs.items()
        for place, value in enumerate(_leaves(values))
    }


def max_error(expected: Mapping[str, float], got: Mapping[str, float]) -> float:
    """Return the largest difference over the names in both; infinity where they share none, or one is no number."""
    differences = [abs(expected[name] - got[name]) for name in expected.keys() & got.keys()]
    return max(differences, default=float("inf")) if all(map(math.isfinite, differences)) else float("inf")


def best(values: Mapping[str, float]) -> str:
    """Return the name with the largest number; "" for elements of an array (`output[place]`), which are no names."""
    name = max(values, key=lambda name: values[name], default="")
    return "" if name.endswith("]") and "[" in name else name


def _leaves(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    return [leaf for value in values for leaf in _leaves(value)]
