"""The items a convert is judged on, and which of them become golden examples."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from doorstep.errors import DataError
from doorstep.golden import Example
from doorstep.tensors import Array
from doorstep_converters.data import DataSet, Row
from doorstep_converters.probes import PROBES, SENTENCES

_Row = TypeVar("_Row")
_CALIBRATION = 200
_GOLDEN = 16
_GOLDEN_PROBES = 6


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Items in a fixed order: probes first, then dev, then test.

    Attributes:
        truth: what is right for each item behind the probes (a class; other tasks keep other values); empty where
            there is no labelled data.
        corpus: what items are looked up in (products), where the task has such.
        probes: how many of the first items are probes, which have no truth.
        final: first item of the split that final figures are taken on.
    """

    items: tuple[Any, ...]
    truth: tuple[Any, ...]
    final: int
    calibration: tuple[Any, ...]
    length_samples: tuple[str, ...]
    digest: str
    probes: int = len(PROBES)
    corpus: tuple[Any, ...] = ()


def plan_evaluation(
    data: DataSet | None,
    labels: Sequence[str],
    limit: int,
    truth_of: Callable[[Sequence[Row]], Sequence[Any]] | None = None,
) -> Evaluation:
    """Choose evaluation and calibration items; the two share no text.

    Args:
        limit: most items taken of each split; more are thinned evenly.
        truth_of: rows to what is right for each; None takes the place of the one label in the head.

    Raises:
        DataError: the data has a label that the checkpoint's head lacks.
    """
    if data is None:
        items = (*PROBES, *SENTENCES)
        return Evaluation(items, (), 0, SENTENCES, (), items_digest(items))
    places = label_places(data, labels) if truth_of is None else {}
    dev, test = thin(data.dev, limit), thin(data.test, limit)
    held_out = [*dev, *test]
    items = (*PROBES, *(row.text for row in held_out))
    source = data.train or ()
    calibration = tuple(row.text for row in thin(source, _CALIBRATION)) or SENTENCES
    samples = tuple(row.text for row in thin(source or data.dev or data.test, 2000))
    final = len(PROBES) + (len(dev) if test else 0)
    return Evaluation(
        items,
        tuple(truth_of(held_out) if truth_of else (places[row.label] for row in held_out)),
        final,
        calibration,
        samples,
        items_digest((*items, *calibration, *samples)),
    )


def label_places(data: DataSet, labels: Sequence[str]) -> dict[str, int]:
    """Map the data's labels to places in the head.

    Raises:
        DataError: they do not match.
    """
    places = {label: place for place, label in enumerate(labels)}
    if not set(data.labels) <= places.keys():
        is_nameless = all(label == f"LABEL_{place}" for place, label in enumerate(labels))
        numbers = {str(place): place for place in range(len(labels))}
        if is_nameless and set(data.labels) <= numbers.keys():
            return numbers
        unknown = ", ".join(sorted(set(data.labels) - places.keys())[:5])
        raise DataError(
            f"{data.source}: the checkpoint's head has {len(labels)} labels ({', '.join(list(labels)[:5])}, …) "
            f"and lacks {unknown}; correct the labels, or give the checkpoint a new head with --retrain"
        )
    return places


def choose_golden(evaluation: Evaluation, expected: Array, found: Sequence[Array]) -> list[int]:
    """Choose golden examples: probes and ordinary items, every label in turn, that all variants answer alike.

    Args:
        expected: the checkpoint's probabilities [items, classes]; found: each packed variant's.
    """
    best = expected.argmax(axis=1)
    agreed = np.ones(len(best), bool)
    for probabilities in found:
        agreed &= probabilities.argmax(axis=1) == best
    usable = [place for place in np.flatnonzero(agreed).tolist() if _is_storable(evaluation.items[place])]
    chosen = [place for place in usable if place < len(PROBES)][:: max(1, len(PROBES) // _GOLDEN_PROBES)]
    chosen = chosen[:_GOLDEN_PROBES]
    by_label: dict[int, list[int]] = {}
    for place in usable:
        if place >= len(PROBES):
            by_label.setdefault(int(best[place]), []).append(place)
    while by_label and len(chosen) < _GOLDEN:
        for label in list(by_label):
            chosen.append(by_label[label].pop(0))
            if not by_label[label]:
                del by_label[label]
    return chosen[:_GOLDEN]


def golden_examples(
    places: Sequence[int], evaluation: Evaluation, labels: Sequence[str], expected: Array, tokenizer: Path
) -> list[Example]:
    """Return the chosen items with the checkpoint's answers and a digest of their tokens."""
    device = Tokenizer.from_file(str(tokenizer))
    examples = []
    for place in places:
        item = evaluation.items[place]
        ids = device.encode(item).ids
        digest = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
        answers = {label: round(float(p), 6) for label, p in zip(labels, expected[place], strict=True)}
        examples.append(Example(item, answers, len(ids), digest))
    return examples


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """Keep texts as a JSON list for the stages' processes."""
    path.write_text(json.dumps(list(texts)), encoding="ascii")
    return path


def thin(rows: Sequence[_Row], limit: int) -> list[_Row]:
    """Keep at most `limit` rows, evenly."""
    step = max(1, -(-len(rows) // limit))
    return list(rows[::step])


def _is_storable(text: str) -> bool:
    """Tell whether a text is short enough to ship, and valid Unicode."""
    return len(text) <= 2000 and not any("\ud800" <= character <= "\udfff" for character in text)


def items_digest(texts: Sequence[Any]) -> str:
    """Return the sha256 of items that JSON can hold."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
