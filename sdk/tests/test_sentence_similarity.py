"""Vectors: cut, scaled and quantized as asked; prompts; bad input."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doorstep.errors import FormatError, InputError
from doorstep.tasks.sentence_similarity import SentenceOptions, SentenceSimilarity
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import TensorSpec
from doorstep.testing import check_task

INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
POOLED = np.random.default_rng(7).standard_normal((3, 16)).astype(np.float32) * 5


@pytest.fixture
def task(tokenizer: Tokenizer) -> Any:
    """Return a function that makes the task with options."""
    encoder = TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, INPUTS)
    return lambda **options: SentenceSimilarity(encoder, SentenceOptions(16, **options))


def test_vectors_have_length_one(task: Any) -> None:
    lengths = [np.linalg.norm(vector.values) for vector in task().results({"vectors": POOLED})]
    assert np.allclose(lengths, 1, atol=1e-6)


def test_cutting_comes_before_scaling(task: Any) -> None:
    (first, *_) = task(dimensions=4).results({"vectors": POOLED})
    assert np.allclose(first.values, POOLED[0, :4] / np.linalg.norm(POOLED[0, :4]), atol=1e-6)


def test_int8_vectors_point_the_same_way(task: Any) -> None:
    for exact, small in zip(
        task().results({"vectors": POOLED}), task(precision="int8").results({"vectors": POOLED}), strict=True
    ):
        values = np.array(small.values) * small.scale
        assert all(isinstance(value, int) and -127 <= value <= 127 for value in small.values)
        assert np.dot(values, exact.values) / np.linalg.norm(values) > 0.999


def test_binary_vectors_hold_the_signs_eight_to_a_byte(task: Any) -> None:
    (first, *_) = task(precision="binary").results({"vectors": POOLED})
    assert len(first.values) == 2
    assert np.unpackbits(np.array(first.values, np.uint8)).tolist() == (POOLED[0] > 0).astype(int).tolist()


def test_raw_vectors_stay_as_the_model_gives_them(task: Any) -> None:
    (first, *_) = task(is_normalized=False).results({"vectors": POOLED})
    assert np.allclose(first.values, POOLED[0])


def test_a_prompt_stands_before_the_text(task: Any) -> None:
    made = task(prompts={"query": "is the "}, default_prompt="query")
    plain = task().prepare(["is the oat milk"])[0].ids
    assert made.prepare(["oat milk"])[0].ids == plain
    assert made.prepare([{"text": "is the oat milk", "prompt": ""}])[0].ids == plain


def test_the_task_keeps_the_contract(task: Any) -> None:
    check_task(task(), ["arrived in two days", "配送很快"])


@pytest.mark.parametrize(
    "item",
    [None, 7, b"x", {"text": 3}, {"prompt": "query"}, {"text": "a", "prompt": "none such"}, {"text": "a", "x": 1}],
)
def test_what_is_no_text_is_refused_by_its_place(task: Any, item: Any) -> None:
    with pytest.raises(InputError, match="item 1"):
        task(prompts={"query": "q: "}).prepare(["fine", item])


@pytest.mark.parametrize(
    "options",
    [{"precision": "int4"}, {"default_prompt": "none"}, {"dimensions": -1}, {"dimensions": 12, "precision": "binary"}],
)
def test_options_that_fit_nothing_are_refused(task: Any, options: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        task(**options)


def test_more_dimensions_than_the_model_gives_are_refused(task: Any) -> None:
    with pytest.raises(FormatError, match="the model gives 16"):
        task(dimensions=32).results({"vectors": POOLED})
