"""A query and its texts, ranked by a real engine; bad input; explanations; the products of a search put in order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doorstep import LoadOptions, Predictor
from doorstep.errors import FormatError, InputError, UsageError
from doorstep.manifest import Variant
from doorstep.results import Hit
from doorstep.search.catalogue import write_catalogue
from doorstep.tasks.text import TextEncoder
from doorstep.tasks.text_ranking import MAX_CHARACTERS, MAX_TEXTS, RankingOptions, TextRanking, ranked, rerank
from doorstep.tensors import TensorSpec
from doorstep.testing import check_task

NAMES = ("input_ids", "attention_mask", "token_type_ids")
INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in NAMES)
OUTPUTS = (TensorSpec("logits", "float32", ("batch", 1)),)
TEXTS = ["the parcel never came", "the oat milk is back", "配送很快", "is the oat milk back in stock"]
ITEM = {"query": "oat milk in stock", "texts": TEXTS}
FINE = {"query": "oat", "texts": ["milk"]}


@pytest.fixture(scope="module")
def bundle(ranking_bundle: Path) -> Path:
    return ranking_bundle


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor.load(bundle)


@pytest.fixture
def task(pair_tokenizer: bytes) -> TextRanking:
    options = RankingOptions(32)
    return TextRanking(TextEncoder.from_bytes(pair_tokenizer, 32, INPUTS, is_pair=True), options)


def test_texts_come_back_best_first_with_their_places(predictor: Predictor) -> None:
    hits = predictor.predict(ITEM).hits
    assert [hit.id for hit in hits] == ["3", "1", "0", "2"]
    assert hits[0].fields == {"text": TEXTS[3]}
    assert hits[0].score == pytest.approx(1 / (1 + np.exp(-3)))  # four tokens in common
    assert hits[3].score == pytest.approx(1 / (1 + np.exp(1)))


def test_a_chinese_query_is_ranked(predictor: Predictor) -> None:
    assert predictor.predict({"query": "快", "texts": TEXTS, "top_k": 1}).ids == ["2"]


def test_the_item_or_the_options_say_how_many_are_listed(bundle: Path, predictor: Predictor) -> None:
    assert predictor.predict({**ITEM, "top_k": 2}).ids == ["3", "1"]
    with Predictor.load(bundle, options=LoadOptions(task_options={"top_k": 3, "activation": "identity"})) as other:
        assert [hit.score for hit in other.predict(ITEM).hits] == [3.0, 1.0, -1.0]


def test_items_of_many_sizes_are_answered_as_alone(predictor: Predictor) -> None:
    items = [ITEM, FINE, {"query": "parcel", "texts": TEXTS[:2]}, {"query": "a", "texts": [""]}]
    assert predictor.predict_many(items, batch_size=3) == [predictor.predict(item) for item in items]
    assert predictor.answer(predictor.prepare(items)) == [predictor.predict(item) for item in items]


def test_an_item_is_a_batch_of_its_own(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Predictor.load(bundle) as predictor:
        sizes: list[int] = []
        run = predictor._session.run  # what the engine is asked is to be seen, and nothing public shows it
        monkeypatch.setattr(
            predictor._session, "run", lambda feeds: sizes.append(len(feeds["input_ids"])) or run(feeds)
        )
        predictor.predict_many([ITEM] * 5)
    assert sizes == [len(TEXTS)] * 5


def test_query_and_text_stand_in_the_order_the_checkpoint_learnt(task: TextRanking, pair_tokenizer: bytes) -> None:
    feeds = task.collate(task.prepare([{"query": "oat milk", "texts": ["back in stock"]}]))
    whole = Tokenizer.from_buffer(pair_tokenizer).encode("oat milk", "back in stock")
    assert feeds["input_ids"].tolist() == [whole.ids]
    assert feeds["token_type_ids"].tolist() == [whole.type_ids]


def test_items_in_one_batch_get_their_own_scores(task: TextRanking) -> None:
    rows = task.prepare([ITEM, FINE, ITEM])
    assert len(task.collate(rows)["input_ids"]) == 9
    logits = np.array([[9], [1], [1], [1], [5], [1], [1], [9], [1]], np.float32)
    assert [found.ids[0] for found in task.results({"logits": logits}, rows)] == ["0", "0", "2"]


def test_of_equal_scores_the_first_text_comes_first() -> None:
    assert ranked(["a", "b", "c"], np.array([1, 2, 2], np.float32), RankingOptions(8)).ids == ["1", "2", "0"]


def test_scores_that_a_sigmoid_cannot_tell_apart_keep_their_order() -> None:
    found = ranked(["a", "b", "c"], np.array([200, 300, -9e4], np.float32), RankingOptions(8))
    assert found.ids == ["1", "0", "2"]
    assert [hit.score for hit in found.hits] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("is_query_long", [False, True])
def test_the_longer_text_of_a_pair_is_cut(pair_tokenizer: bytes, is_query_long: bool) -> None:
    pair = ("oat milk", "is the oat milk back in stock " * 5)
    query, text = reversed(pair) if is_query_long else pair
    encoder = TextEncoder.from_bytes(pair_tokenizer, 12, INPUTS, is_pair=True)
    (row,) = encoder.encode_pairs([(query, text)], 0)
    whole = Tokenizer.from_buffer(pair_tokenizer).encode("oat milk").ids[1:]  # with the [SEP] behind it
    assert len(row) == 12
    assert (row.ids[-len(whole) :] if is_query_long else row.ids[1 : 1 + len(whole)]) == whole
    assert row.type_ids == [0] * (row.ids.index(3) + 1) + [1] * (11 - row.ids.index(3))


def test_the_task_keeps_the_contract(task: TextRanking) -> None:
    check_task(task, [FINE, {"query": "配送", "texts": ["配送很快"]}])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (None, "expected a dict"),
        ("oat milk", "got str"),
        (["oat", "milk"], "got list"),
        ({"query": "a"}, "expected a dict of query, texts"),
        ({"texts": ["a"]}, "expected a dict of query, texts"),
        ({**FINE, "limit": 3}, "got query, texts, limit"),
        ({**FINE, "query": " \n"}, "query: expected a text, got only white space"),
        ({**FINE, "query": b"a"}, "query: expected a text, got bytes"),
        ({**FINE, "texts": "milk"}, "texts: expected a list of texts, got str"),
        ({**FINE, "texts": []}, f"texts: expected 1 to {MAX_TEXTS}, got 0"),
        ({**FINE, "texts": ["a"] * (MAX_TEXTS + 1)}, f"got {MAX_TEXTS + 1}; search first"),
        ({**FINE, "texts": ["a", None]}, r"texts\[1\]: expected a text \(str\), got NoneType"),
        ({**FINE, "texts": ["a", ["b"]]}, r"texts\[1\].*got list"),
        ({**FINE, "top_k": 0}, "top_k: expected 1 or more, got 0"),
        ({**FINE, "top_k": True}, "top_k"),
        ({**FINE, "top_k": "3"}, "top_k"),
        ({**FINE, "texts": ["a" * MAX_CHARACTERS]}, "cut the texts"),
        ({**FINE, "texts": ["fine", "half \ud83d"]}, "surrogate"),
        ({**FINE, "query": "half \ud83d"}, "surrogate"),
    ],
)
def test_what_cannot_be_ranked_is_refused_and_the_others_are_answered(
    predictor: Predictor, item: Any, said: str
) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{said}"):
        predictor.predict_many([FINE, item])
    before, wrong, after = predictor.predict_many([FINE, item, ITEM], on_error="return")
    assert (before, after) == (predictor.predict(FINE), predictor.predict(ITEM))
    assert isinstance(wrong, InputError)
    assert "item 1" in str(wrong)


@pytest.mark.parametrize("options", [{"activation": "softmax"}, {"top_k": 0}, {"top_k": 1000}, {"max_length": 3}])
def test_options_that_fit_nothing_are_refused(bundle: Path, options: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=next(iter(options))):
        Predictor.load(bundle, options=LoadOptions(task_options=options))


def test_an_explanation_shows_the_words_that_a_text_is_found_by(predictor: Predictor) -> None:
    told = predictor.explain(ITEM)
    assert told.label == "3"
    weights = {part.text: part.weight for part in told.parts}
    assert {word for word, weight in weights.items() if weight > 0.01} == {"oat", "milk", "in", "stock"}
    assert {TEXTS[3][part.start : part.end] for part in told.parts} == set(weights)
    assert predictor.explain(ITEM, label="2").parts[0].weight == pytest.approx(0)


def test_a_long_text_is_explained_in_several_calls(predictor: Predictor) -> None:
    text = " ".join(f"word{number}" for number in range(150)) + " oat"
    assert len(predictor.explain({"query": "oat", "texts": [text]}, max_parts=512).parts) == 151


def test_an_unknown_label_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="the id of a ranked text"):
        predictor.explain(ITEM, label="9")


@pytest.fixture(scope="module")
def search(
    tmp_path_factory: pytest.TempPathFactory,
    make_bundle: Callable[..., Path],
    make_variant: Callable[..., Variant],
) -> Predictor:
    """A search whose encoder knows nothing: products are found by their letters."""
    folder = tmp_path_factory.mktemp("catalogue")
    rows = [{"id": f"p{n}", "name": text, "price": float(n)} for n, text in enumerate(TEXTS)]
    write_catalogue(rows, TEXTS, np.zeros((len(TEXTS), 3), np.float32) + 1, folder)
    files = {f"catalogue/{path.name}": path.read_bytes() for path in folder.iterdir()}
    bundle = make_bundle(
        tmp_path_factory.mktemp("search"),
        files=files,
        task="search",
        options={"max_length": 32, "text_fields": ["name"]},
        variants=(make_variant("onnx-fp32"),),
    )
    return Predictor.load(bundle)


def test_what_a_search_found_is_put_in_order(search: Predictor, predictor: Predictor) -> None:
    found = rerank(search, predictor, "oat milk in stock")
    assert found.ids[:2] == ["p3", "p1"]
    assert found.hits[0] == Hit("p3", pytest.approx(1 / (1 + np.exp(-3))), {"id": "p3", "name": TEXTS[3], "price": 3.0})
    assert sorted(found.ids) == sorted(search.predict({"query": "oat milk in stock", "top_k": 20}).ids)


def test_the_item_filters_and_says_how_many_are_read(search: Predictor, predictor: Predictor) -> None:
    assert rerank(search, predictor, {"query": "oat milk", "filters": {"price": {"max": 2}}, "top_k": 1}).ids == ["p1"]
    assert rerank(search, predictor, {"query": "oat", "filters": {"price": {"min": 99}}}).hits == ()


@pytest.mark.parametrize(
    "item", [None, 7, {"query": " "}, {"product": {"id": "x", "name": "y"}}, {"query": "a", "top_k": 0}]
)
def test_a_query_that_is_none_is_refused(search: Predictor, predictor: Predictor, item: Any) -> None:
    with pytest.raises(InputError):
        rerank(search, predictor, item)


def test_predictors_of_other_tasks_are_refused(search: Predictor, predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="expected a bundle of text-ranking, got one of search"):
        rerank(search, search, "oat")
    with pytest.raises(UsageError, match="expected a bundle of search"):
        rerank(predictor, predictor, "oat")


def test_deleting_the_words_a_text_is_ranked_by_costs_more_than_deleting_any(predictor: Predictor) -> None:
    found = predictor.faithfulness([ITEM, {"query": "love two days", "texts": [TEXTS[0], "it never came in two days"]}])
    assert found.ranked > found.shuffled + 0.05
