"""From logits to labels: temperature, probabilities, thresholds, abstaining, the best k."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np

from doorstep.errors import FormatError, InputError, UsageError
from doorstep.results import Classification, Label
from doorstep.tasks import softmax
from doorstep.tensors import Array, Fetches


class LabellingOptions(NamedTuple):
    """How a classifier's logits become labels.

    Attributes:
        labels: the classes, in the order of the logits.
        is_multi_label: several labels may hold at once (sigmoid) instead of exactly one (softmax).
        temperature: logits are divided by it before they become probabilities (greater than 0).
        thresholds: label to the lowest probability at which it counts; "*" for all others.
        abstain_below: the best class must reach this probability, or the result has no label (0 to 1).
        top_k: how many classes a result lists.
        display_names: locale to label to the name people read.
    """

    labels: tuple[str, ...]
    is_multi_label: bool = False
    temperature: float = 1.0
    thresholds: Mapping[str, float] = MappingProxyType({})
    abstain_below: float = 0.0
    top_k: int = 5
    display_names: Mapping[str, Mapping[str, str]] = MappingProxyType({})


class Labelling:
    """What tasks share whose results are classifications: an explanation is about one label's probability."""

    _labeller: "Labeller"

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        """As of a `Task`."""
        raise NotImplementedError

    def of_every_label(self) -> Self:
        """Return this task with results that list every class."""
        from copy import copy  # a start does without it

        other = copy(self)
        other._labeller = self._labeller.of_every_label()
        return other

    def best(self, fetches: Fetches, rows: Sequence[Any]) -> str:
        """Return the likeliest label of the first row."""
        return self.of_every_label().results(fetches, rows)[0].scores[0][0]

    def logits(self, fetches: Fetches, label: str) -> Array:
        """Return a label's logit for each row: [batch]."""
        found: Array = next(iter(fetches.values()))[:, self._labeller.labels.index(label)]
        return found.astype(np.float64)

    def scores(self, fetches: Fetches, rows: Sequence[Any], label: str) -> list[float]:
        """Return a label's probability for each row.

        Raises:
            InputError: the model has no such label.
        """
        if label not in self._labeller.labels:
            raise InputError(f"label: expected one of {', '.join(self._labeller.labels):.200}, got {label!r:.60}")
        return [dict(result.scores)[label] for result in self.of_every_label().results(fetches, rows)]


class Labeller:
    """Turns logits [batch, classes] into classifications."""

    def __init__(self, options: LabellingOptions) -> None:
        _check(options)
        self._options = options
        default = options.thresholds.get("*", 0.5 if options.is_multi_label else 0.0)
        self._lowest = [options.thresholds.get(label, default) for label in options.labels]
        self._count = min(options.top_k, len(options.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self._options.labels

    def of_every_label(self) -> "Labeller":
        """Return one whose results list every class, however few this one lists."""
        return Labeller(self._options._replace(top_k=len(self._options.labels)))

    def classify(self, logits: Array) -> list[Classification]:
        """Return one classification a row of `logits` [batch, classes] float."""
        options = self._options
        if logits.ndim != 2 or logits.shape[1] != len(options.labels):
            raise FormatError(
                f"labels: expected {len(options.labels)} logits to match the labels, got shape {list(logits.shape)}"
            )
        scaled = logits.astype(np.float32, copy=False)
        if options.temperature != 1:
            scaled = scaled / np.float32(options.temperature)
        if options.is_multi_label:
            probabilities = 0.5 + 0.5 * np.tanh(0.5 * scaled)  # [batch, classes]; the sigmoid, which exp overflows
        else:
            probabilities = softmax(scaled)  # [batch, classes]
        order = (-probabilities).argsort(axis=1, kind="stable")  # [batch, classes]
        return [
            self._classification(row, places)
            for row, places in zip(probabilities.tolist(), order.tolist(), strict=True)
        ]

    def _classification(self, row: list[float], places: list[int]) -> Classification:
        names = self._options.labels
        best = places[0]
        scores = tuple([Label(names[place], row[place]) for place in places[: self._count]])
        is_sure = row[best] >= max(self._options.abstain_below, self._lowest[best])
        if self._options.is_multi_label:
            labels = tuple([names[place] for place in places if row[place] >= self._lowest[place]])
        else:
            labels = (names[best],) if is_sure else ()
        return Classification(names[best] if is_sure else None, row[best], scores, labels)


def _check(options: LabellingOptions) -> None:
    unknown = options.thresholds.keys() - set(options.labels) - {"*"}
    for is_wrong, message in (
        (not options.labels, "labels: expected at least one"),
        (len(set(options.labels)) != len(options.labels), "labels: expected distinct names"),
        (not options.temperature > 0, f"temperature: expected more than 0, got {options.temperature}"),
        (options.top_k < 1, f"top_k: expected at least 1, got {options.top_k}"),
        (not 0 <= options.abstain_below <= 1, f"abstain_below: expected 0 to 1, got {options.abstain_below}"),
        (bool(unknown), f"thresholds: no labels named {sorted(unknown)}"),
    ):
        if is_wrong:
            raise FormatError(message)


def strict_options(plain: dict[str, Any], overrides: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Merge overrides into a manifest's options.

    Raises:
        UsageError: an override is misspelt.
    """
    if unknown := sorted(overrides.keys() - known):
        raise UsageError(f"options: expected some of {', '.join(sorted(known)) or 'none'}, got {', '.join(unknown)}")
    return {**plain, **overrides}
