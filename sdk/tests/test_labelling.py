"""From logits to labels."""

import warnings
from typing import Any

import numpy as np
import pytest

from doorstep.errors import FormatError
from doorstep.results import Classification
from doorstep.tasks.labelling import Labeller, LabellingOptions

LABELS = ("negative", "neutral", "positive")
LOG = [float(np.log(share)) for share in (0.1, 0.2, 0.7)]
"""Logits whose softmax is 0.1, 0.2, 0.7."""
LOGITS = [float(np.log(share / (1 - share))) for share in (0.3, 0.6, 0.9)]
"""Logits whose sigmoids are 0.3, 0.6, 0.9."""


def classify(logits: list[float], **options: Any) -> Classification:
    labeller = Labeller(LabellingOptions(**{"labels": LABELS, **options}))
    return labeller.classify(np.array([logits], np.float32))[0]


def shares(result: Classification) -> dict[str, float]:
    return {score.label: pytest.approx(score.score, abs=1e-6) for score in result.scores}


def test_one_label_takes_the_softmax() -> None:
    result = classify(LOG)
    assert shares(result) == {"positive": 0.7, "neutral": 0.2, "negative": 0.1}
    assert (result.label, result.labels, result.is_abstained) == ("positive", ("positive",), False)
    assert result.score == pytest.approx(0.7)


def test_scores_fall() -> None:
    assert [score.label for score in classify([0.0, 2.0, 1.0]).scores] == ["neutral", "positive", "negative"]


def test_level_scores_keep_the_order_of_the_labels() -> None:
    assert [score.label for score in classify([1.0, 1.0, 1.0]).scores] == list(LABELS)


@pytest.mark.parametrize("top_k, count", [(1, 1), (2, 2), (3, 3), (50, 3)])
def test_top_k_bounds_the_scores(top_k: int, count: int) -> None:
    assert len(classify(LOG, top_k=top_k).scores) == count


@pytest.mark.parametrize("temperature, score", [(1.0, 0.7), (2.0, 0.522879), (0.5, 0.907407)])
def test_temperature_divides_the_logits(temperature: float, score: float) -> None:
    assert classify(LOG, temperature=temperature).score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    "options, label",
    [
        ({"abstain_below": 0.69}, "positive"),
        ({"abstain_below": 0.71}, None),
        ({"thresholds": {"positive": 0.69}}, "positive"),
        ({"thresholds": {"positive": 0.71}}, None),
        ({"thresholds": {"*": 0.71}}, None),
        ({"thresholds": {"*": 0.71, "positive": 0.5}}, "positive"),
        ({"thresholds": {"negative": 0.9}}, "positive"),
        ({"abstain_below": 0.8, "thresholds": {"positive": 0.1}}, None),
    ],
)
def test_a_class_that_is_not_sure_enough_abstains(options: dict[str, Any], label: str | None) -> None:
    result = classify(LOG, **options)
    assert result.label == label
    assert result.is_abstained is (label is None)
    assert result.labels == ((label,) if label else ())
    assert result.score == pytest.approx(0.7)


def test_several_labels_take_the_sigmoid() -> None:
    result = classify(LOGITS, is_multi_label=True)
    assert shares(result) == {"positive": 0.9, "neutral": 0.6, "negative": 0.3}
    assert result.labels == ("positive", "neutral")


@pytest.mark.parametrize(
    "thresholds, labels, label",
    [
        ({}, ("positive", "neutral"), "positive"),
        ({"*": 0.2}, ("positive", "neutral", "negative"), "positive"),
        ({"*": 0.95}, (), None),
        ({"positive": 0.95}, ("neutral",), None),
        ({"negative": 0.25}, ("positive", "neutral", "negative"), "positive"),
    ],
)
def test_thresholds_pick_among_several_labels(
    thresholds: dict[str, float], labels: tuple[str, ...], label: str | None
) -> None:
    result = classify(LOGITS, is_multi_label=True, thresholds=thresholds)
    assert (result.labels, result.label) == (labels, label)


def test_top_k_does_not_bound_the_labels() -> None:
    assert len(classify([9.0, 9.0, 9.0], is_multi_label=True, top_k=1).labels) == 3


@pytest.mark.parametrize("is_multi_label", [False, True])
@pytest.mark.parametrize("logits", [[1e4, -1e4, 0.0], [3e37, -3e37, 0.0], [-1e4, -1e4, -1e4]])
def test_huge_logits_make_no_warning_and_no_nan(logits: list[float], is_multi_label: bool) -> None:
    with warnings.catch_warnings(action="error"):
        result = classify(logits, is_multi_label=is_multi_label)
    assert all(0 <= score.score <= 1 for score in result.scores)


def test_logits_that_are_no_numbers_abstain() -> None:
    assert classify([float("nan")] * 3).label is None


def test_rows_are_answered_in_their_order() -> None:
    rows = Labeller(LabellingOptions(LABELS)).classify(np.eye(3, dtype=np.float32))
    assert [row.label for row in rows] == list(LABELS)


@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (3,), (1, 3, 1)])
def test_labels_that_do_not_match_the_logits_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="expected 3 logits to match the labels"):
        Labeller(LabellingOptions(LABELS)).classify(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": ()}, "labels: expected at least one"),
        ({"labels": ("a", "a")}, "labels: expected distinct names"),
        ({"temperature": 0.0}, "temperature: expected more than 0"),
        ({"temperature": -1.0}, "temperature: expected more than 0"),
        ({"temperature": float("nan")}, "temperature: expected more than 0"),
        ({"top_k": 0}, "top_k: expected at least 1"),
        ({"abstain_below": 1.1}, "abstain_below: expected 0 to 1"),
        ({"abstain_below": float("nan")}, "abstain_below: expected 0 to 1"),
        ({"thresholds": {"posative": 0.5}}, r"thresholds: no labels named \['posative'\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Labeller(LabellingOptions(**{"labels": LABELS, **options}))


def test_a_result_is_plain_data() -> None:
    plain = classify(LOG, top_k=1).to_dict()
    assert plain["label"] == "positive"
    assert plain["scores"][0].keys() == {"label", "score"}
    assert type(plain["score"]) is float
