"""Explanations: parts, weights, and that they are true."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.errors import InputError, UsageError
from doorstep.explain import Weighed, faithfulness, weigh
from doorstep.pieces.texts import split, without
from doorstep.predictor import LoadOptions, Predictor

TEXTS = (
    "arrived in two days, love it",
    "the parcel never came and nobody answered",
    "is the oat milk back in stock",
    "配送很快，包装也很好",
)


@pytest.fixture(scope="module")
def predictor(template: Path) -> Iterator[Predictor]:
    with Predictor.load(template, variant="onnx-fp32", options=LoadOptions(task_options={"top_k": 1})) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def score(template: Path) -> Iterator[Callable[[Sequence[str], str], list[float]]]:
    with Predictor.load(template, variant="onnx-fp32") as loaded:
        yield lambda texts, label: [dict(result.scores)[label] for result in loaded.predict_many(texts)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("don't go well-known way!!", ["don't", "go", "well-known", "way", "!!"]),
        ("我要iPhone 15手机。", ["我", "要", "iPhone", "15", "手", "机", "。"]),
        ("オムレツ 한국어", ["オ", "ム", "レ", "ツ", "한국어"]),
        ("𠮷野家 👍", ["𠮷", "野", "家", "👍"]),
        ("  ", []),
    ],
)
def test_a_text_is_split_into_words_and_chinese_characters(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in split(text, 100)] == parts


def test_a_long_text_has_few_parts_that_cover_all_of_it() -> None:
    text = "word " * 1000
    parts = split(text, 10)
    assert len(parts) == 10
    assert without(text, parts).strip() == ""


def test_a_weight_is_what_the_score_loses(predictor: Predictor, score: Callable[..., list[float]]) -> None:
    told = predictor.explain(TEXTS[0])
    for part in told.parts:
        left = score([without(TEXTS[0], [(part.start, part.end)])], told.label)[0]
        assert part.weight == pytest.approx(told.score - left, abs=1e-5)


def test_deleting_the_highest_ranked_parts_costs_more_than_deleting_any(predictor: Predictor) -> None:
    found = predictor.faithfulness(TEXTS)
    assert found.ranked > found.shuffled + 0.05


def test_a_false_explanation_is_found_out(predictor: Predictor) -> None:
    def upside_down(*arguments: Any) -> Weighed:
        weighed = weigh(*arguments)
        return weighed._replace(weights=[-weight for weight in weighed.weights])

    found = faithfulness(predictor._session, predictor.task, TEXTS, weigh=upside_down)
    assert found.ranked < found.shuffled


def test_another_label_can_be_explained(predictor: Predictor) -> None:
    assert predictor.explain(TEXTS[0], label="negative").label == "negative"
    with pytest.raises(InputError, match="label"):
        predictor.explain(TEXTS[0], label="great")


def test_a_picture_is_explained_by_the_region_that_matters(picture_bundle: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)
    with Predictor.load(picture_bundle) as loaded:
        told = loaded.explain(pixels)
    best = max(told.regions, key=lambda region: region.weight)
    assert told.label == "red"
    assert (best.left, best.top) == (0, 0)


def test_deleting_the_tiles_that_matter_costs_more_than_deleting_any(picture_bundle: Path) -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[0, 0, 0], pixels[1, 2:, 3] = (255, 0, 0), (0, 0, 255)
    with Predictor.load(picture_bundle) as loaded:
        found = loaded.faithfulness(list(pixels))
        with pytest.raises(UsageError, match="two parts or more"):
            loaded.faithfulness([])
    assert found.ranked > found.shuffled


def test_regions_are_shares_of_the_whole_picture_where_a_part_is_seen(picture_bundle: Path, tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 30:40] = (255, 0, 0)
    options = LoadOptions(task_options={"resize": [4]})
    with Predictor.load(picture_bundle, options=options) as loaded:
        told = loaded.explain(pixels)
    best = max(told.regions, key=lambda region: region.weight)
    assert (min(region.left for region in told.regions), told.label) == (0.25, "red")
    assert best.left == pytest.approx(0.375)
    assert best.width == pytest.approx(0.125)


def test_what_cannot_be_explained_says_so(tensor_bundle: Path, predictor: Predictor) -> None:
    with Predictor.load(tensor_bundle) as loaded, pytest.raises(UsageError, match="no labels"):
        loaded.explain([1.0])
    with pytest.raises(UsageError, match="max_parts"):
        predictor.explain("x", max_parts=0)
    with pytest.raises(InputError):
        predictor.explain(3)
