"""Several labels at once: how data names them, where each label's threshold lies, how sets of labels are judged."""

from collections.abc import Sequence

import numpy as np

from doorstep.errors import DataError
from doorstep.tensors import Array
from doorstep_converters.data import SEPARATOR, DataSet, Row, names_in
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.parity import Parity

METRIC = "micro-f1"
_FEWEST, _USUAL = 5, 0.5  # examples of a label in dev from which its threshold is tuned; the threshold of others


def label_sets(data: DataSet, rows: Sequence[Row], labels: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the places of each row's labels in the head; none where the data names none.

    Raises:
        DataError: the head lacks a label.
    """
    places = {label: place for place, label in enumerate(labels)}
    found = []
    for row in rows:
        names = names_in(row.label)
        if unknown := sorted(set(names) - places.keys()):
            raise DataError(
                f"{data.source}: the checkpoint's head has the labels {', '.join(list(labels)[:5])}, … and lacks "
                f"{unknown[0]!r:.60}; a row names several labels with {SEPARATOR!r} between them"
            )
        found.append(tuple(sorted({places[name] for name in names})))
    return found


def tuned_thresholds(expected: Array, evaluation: Evaluation, labels: Sequence[str]) -> dict[str, float]:
    """Return for each label the probability at which its F1 on dev is highest.

    Args:
        expected: the checkpoint's probabilities [items, classes].
    """
    start, end = evaluation.probes, evaluation.final
    if end <= start:
        return {}  # nothing but test: a threshold must not be tuned on it
    probabilities, truth = expected[start:end], matrix(evaluation.truth[: end - start], len(labels))
    return {
        label: _threshold(probabilities[:, place], truth[:, place])
        for place, label in enumerate(labels)
        if truth[:, place].sum() >= _FEWEST
    }


def compare_sets(expected: Array, got: Array, truth: Sequence[Sequence[int]] | None, thresholds: Array) -> Parity:
    """Compare label sets; agreement is the share of items with exactly the checkpoint's set.

    Args:
        thresholds: [classes].
    """
    from sklearn.metrics import f1_score

    best, found = expected >= thresholds, got >= thresholds  # [items, classes]
    figure = reference = macro = None
    if truth is not None:
        right = matrix(truth, expected.shape[1])
        figure = float(f1_score(right, found, average="micro", zero_division=0.0))
        reference = float(f1_score(right, best, average="micro", zero_division=0.0))
        macro = float(f1_score(right, found, average="macro", zero_division=0.0))
    error = float(np.abs(expected - got).max()) if np.isfinite(got).all() else float("inf")
    agreement = float((best == found).all(axis=1).mean())
    return Parity(len(best), agreement, error, figure, reference, macro, METRIC)


def threshold_row(thresholds: dict[str, float], labels: Sequence[str]) -> Array:
    """Return every label's threshold, [classes]."""
    return np.array([thresholds.get(label, thresholds.get("*", _USUAL)) for label in labels], np.float32)


def matrix(sets: Sequence[Sequence[int]], classes: int) -> Array:
    """Return which labels hold: [items, classes] bool."""
    found = np.zeros((len(sets), classes), bool)
    for place, labels in enumerate(sets):
        found[place, list(labels)] = True
    return found


def _threshold(probabilities: Array, truth: Array) -> float:
    """Return the middle of the widest gap between probabilities at which F1 is highest."""
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + truth.sum())
    below = np.append(ranked[1:], 0.0)
    f1[ranked == below] = -1.0  # no threshold parts equal probabilities
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    cut = best[np.argmax(ranked[best] - below[best])]
    return round(float((ranked[cut] + below[cut]) / 2), 4)
