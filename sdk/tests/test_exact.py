"""Exact attributions: what parts bring adds up to the logit; what does not add up is never called exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doorstep.explain import weigh
from doorstep.pieces.linear import TOLERANCE
from doorstep.predictor import LoadOptions, Predictor

LABELS = ("negative", "neutral", "positive")
TEXTS = (
    "arrived in two days, love it",
    "the parcel never came and nobody answered",
    "配送很快，包装也很好",
    "love",
    "",
    "  ?!  unheard words 👍 " * 20,  # cut after 16 tokens
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("label", LABELS)
def test_what_the_words_bring_and_the_bias_add_up_to_the_logit(average: Any, text: str, label: str) -> None:
    with Predictor.load(average.folder, variant="onnx-fp32") as predictor:
        told = predictor.explain(text, label=label)
        (encoding,) = predictor.prepare([text])
    logits = average.table[encoding.ids].mean(axis=0) @ average.head + average.bias
    assert told.is_exact
    assert told.logit == pytest.approx(logits[LABELS.index(label)], abs=1e-4)
    assert abs(sum(part.weight for part in told.parts) + told.bias - told.logit) <= TOLERANCE * max(1, abs(told.logit))


def test_a_word_brings_its_weight_times_its_vector(average: Any, tokenizer: Tokenizer) -> None:
    with Predictor.load(average.folder, variant="onnx-fp32") as predictor:
        told = predictor.explain("love never", label="positive")
    ids = tokenizer.encode("love never").ids
    love = tokenizer.encode("love", add_special_tokens=False).ids
    expected = (average.table[love] @ average.head[:, 2]).sum() / len(ids)
    frame = (average.table[[ids[0], ids[-1]]] @ average.head[:, 2]).sum() / len(ids)
    assert told.parts[0].weight == pytest.approx(expected, abs=1e-5)
    assert told.bias == pytest.approx(average.bias[2] + frame, abs=1e-5)  # special tokens are no part of the text


def test_the_score_is_the_probability_that_predict_gives(average: Any) -> None:
    with Predictor.load(average.folder, variant="onnx-fp32") as predictor:
        told = predictor.explain(TEXTS[0])
        best = predictor.predict(TEXTS[0])
    assert (told.label, told.score) == (best.label, pytest.approx(best.score, abs=1e-6))
    assert told.to_dict()["is_exact"] is True


def test_a_model_that_does_not_add_up_is_explained_by_leaving_out(average: Any, template: Path) -> None:
    for folder, options, variant in (
        (average.folder, {}, "onnx-int8"),  # its options say that it is linear, and it is not
        (average.folder, {"is_linear": False}, "onnx-fp32"),
        (template, {}, "onnx-fp32"),
    ):
        with Predictor.load(folder, variant=variant, options=LoadOptions(task_options=options)) as predictor:
            told = predictor.explain(TEXTS[0])
            left = dict(predictor.predict(TEXTS[0].replace("arrived", "")).scores)[told.label]
        assert (told.is_exact, told.logit, told.bias) == (False, None, 0.0)
        assert told.parts[0].weight == pytest.approx(told.score - left, abs=1e-5)


def test_exact_words_deleted_by_rank_cost_more_than_any(average: Any) -> None:
    with Predictor.load(average.folder, variant="onnx-fp32") as predictor:
        found = predictor.faithfulness(TEXTS[:3])
        assert weigh(predictor._session, predictor.task, TEXTS[0], None, 64).logit is not None
    assert found.ranked > found.shuffled


def test_neighbours_taken_together_still_add_up(average: Any) -> None:
    with Predictor.load(average.folder, variant="onnx-fp32") as predictor:
        told, all_of_it = (predictor.explain(TEXTS[1], max_parts=most) for most in (2, 64))
    assert len(told.parts) == 2
    assert sum(part.weight for part in told.parts) == pytest.approx(sum(part.weight for part in all_of_it.parts))
    assert np.isclose(told.bias, all_of_it.bias)


FIELDS = [{"name": name, "kind": "number", "quantiles": [0.0, 10.0]} for name in ("price", "pages", "seconds", "age")]
VISITS = (
    {"price": 9.0, "pages": 1.0, "seconds": 4.5, "age": 2.0},
    {"price": 0.0, "pages": 8.0, "seconds": 9.0, "age": 7.0},
    {"pages": 3.0, "age": 10.0},
)


@pytest.fixture
def visits(make_fields: Callable[[Any, bool], Path]) -> Callable[[bool], Path]:
    """Return a function that writes a bundle of fields, with a linear model or one that bends."""
    return lambda is_bent: make_fields(FIELDS, is_bent)


@pytest.mark.parametrize("item", VISITS)
def test_what_the_fields_bring_adds_up_from_where_all_are_missing(
    visits: Callable[[bool], Path], item: dict[str, float]
) -> None:
    with Predictor.load(visits(False)) as predictor:
        told = predictor.explain(item, label="positive")
        feeds = predictor.task.collate(predictor.prepare([item]))
    weights = np.linspace(-2, 3, 12).reshape(4, 3)[:, 2]
    assert told.is_exact
    brought = dict(zip(("price", "pages", "seconds", "age"), (feeds["numbers"][0] * weights).tolist(), strict=True))
    assert {field.name: field.weight for field in told.fields} == pytest.approx(
        {name: brought[name] for name in item}, abs=1e-4
    )
    assert sum(field.weight for field in told.fields) + told.bias == pytest.approx(told.logit, abs=1e-4)


def test_fields_that_do_not_add_up_are_explained_by_leaving_out(visits: Callable[[bool], Path]) -> None:
    with Predictor.load(visits(True)) as predictor:
        told = predictor.explain(VISITS[0])
        left = dict(predictor.predict({**VISITS[0], "price": None}).scores)[told.label]
    assert not told.is_exact
    assert told.fields[0].weight == pytest.approx(told.score - left, abs=1e-5)


@pytest.mark.parametrize("is_bent", [False, True], ids=["exact", "left out"])
def test_deleting_the_fields_that_matter_costs_more_than_deleting_any(
    visits: Callable[[bool], Path], is_bent: bool
) -> None:
    with Predictor.load(visits(is_bent)) as predictor:
        found = predictor.faithfulness(VISITS)
    assert found.ranked > found.shuffled + 0.02
