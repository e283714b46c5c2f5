"""Exact attributions: what parts bring adds up to the logit; what does not add up is never called exact."""

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
