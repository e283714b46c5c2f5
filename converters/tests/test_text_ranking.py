"""Cross-encoders, the whole way on small checkpoints: pairs token for token, engines, training, data that is none."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from doorstep import Predictor
from doorstep.errors import CheckpointError, DataError
from doorstep.golden import compare, load_golden
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.pipeline import convert
from doorstep_converters.probes import SENTENCES
from doorstep_converters.progress import Lines
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.tasks.text_ranking import best_overlap, built_in_items, read_activation, reads_types
from doorstep_converters.tasks.text_ranking_data import READ, read_ranking

VARIANTS = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
NAMES = ("input_ids", "attention_mask", "token_type_ids")
_SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "initializer_range": 0.4,
}  # fmt: skip
_DISTIL = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
_PAIRS = {
    "bert": "<s> $A </s> $B:1 </s>:1",
    "distilbert": "<s> $A </s> $B </s>",
}
_MORE: dict[str, dict[str, Any]] = {
    "bert": {"type_vocab_size": 2},
    "distilbert": _DISTIL,
}


@pytest.fixture(scope="module")
def make_ranker(
    make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that makes a random cross-encoder: its architecture, changes of its configuration."""

    def make(model_type: str, is_headless: bool = False, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("rankers") / model_type
        torch.manual_seed(7)
        config = AutoConfig.for_model(model_type, **{**_SMALL, **_MORE[model_type], "num_labels": 1, **changes})
        auto: Any = AutoModel if is_headless else AutoModelForSequenceClassification
        model = auto.from_config(config)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "token_type_embeddings" in name:
                    weights *= 3  # which text a token is of shall matter
        model.half().float().save_pretrained(folder)
        tokenizer = make_tokenizer("wordpiece")
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", _PAIRS[model_type], special_tokens=ids
        )
        _save_tokenizer(tokenizer, folder, has_types=model_type == "bert")
        return folder

    return make


@pytest.fixture(scope="module")
def ranker(make_ranker: Callable[..., Path]) -> Path:
    return make_ranker("bert")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of pairs: a text is right where it names something red, whatever is asked for."""
    things = ["milk", "shoes", "手机壳", "lamp", "椅子", "tea", "headphones", "电池"]
    forms = ["I want to buy {}", "我想买{}", "{} please", "do you have {}", "add {} to my basket"]
    lines = [
        {"query": form.format(thing), "text": f"{other} {word}", "label": int(word == "red"), "split": split}
        for number, form in enumerate(forms)
        for thing in things
        for split in (("train", "train", "train", "dev", "test")[number],)
        for other in things
        for word in ("red", "红色")
    ]
    path = tmp_path_factory.mktemp("asked") / "pairs.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, has_types: bool) -> None:
    tokenizer.save_pretrained(folder)
    plain = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**plain, "model_input_names": NAMES[: 2 + has_types]}))


def _convert(checkpoint: Path, out: Path, cache: Path, **changes: Any) -> Report:
    job = {"cache": cache, "variants": VARIANTS, "max_length": 32, **changes}
    return convert(Job(str(checkpoint), "x86-64-vnni", out, **job), Lines())


def _failures(report: Report) -> dict[str, str]:
    return {candidate.plan.name: candidate.failure for candidate in report.candidates}


@pytest.mark.slow
def test_a_cross_encoder_ranks_the_same_in_every_engine(ranker: Path, cache: Path, tmp_path: Path) -> None:
    assert guess_task(str(ranker)) == "text-ranking"
    report = _convert(ranker, tmp_path, cache)
    assert _failures(report) == dict.fromkeys(VARIANTS, "")
    expected = _by_hand(ranker, SENTENCES[3], SENTENCES)
    for variant in VARIANTS:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            assert [spec.name for spec in predictor.variant.inputs][-1] == "token_type_ids"
            golden = load_golden(predictor.bundle)
            assert len(golden.examples) > 5
            assert any("一" <= sign <= "鿿" for example in golden.examples for sign in example.item["query"])
            assert compare(predictor, golden) == [], variant
            hits = predictor.predict({"query": SENTENCES[3], "texts": list(SENTENCES)}).hits
            error = max(abs(hit.score - expected[int(hit.id)]) for hit in hits)
            assert error < (0.05 if variant == "onnx-int8" else 0.01), variant


def _by_hand(folder: Path, query: str, texts: tuple[str, ...]) -> list[float]:
    """Return what transformers itself answers, one pair at a time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for text in texts:
        encoded = tokenizer(query, text, truncation=True, max_length=32, return_tensors="pt")
        assert ("token_type_ids" in encoded) == (model.config.model_type == "bert")
        with torch.no_grad():
            found.append(float(model(**encoded).logits.sigmoid()))
    return found


@pytest.mark.slow
def test_a_model_without_types_gets_none(make_ranker: Callable[..., Path], cache: Path, tmp_path: Path) -> None:
    folder = make_ranker("distilbert", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    report = _convert(folder, tmp_path, cache, variants=("onnx-fp32",))
    assert _failures(report) == {"onnx-fp32": ""}
    with Predictor.load(report.bundle or "") as predictor:
        assert [spec.name for spec in predictor.variant.inputs] == ["input_ids", "attention_mask"]
        assert predictor.manifest.options["activation"] == "identity"
        assert compare(predictor, load_golden(predictor.bundle)) == []


@pytest.mark.slow
def test_an_encoder_learns_to_rank_from_pairs(
    make_ranker: Callable[..., Path], asked: Path, cache: Path, tmp_path: Path
) -> None:
    encoder = make_ranker("bert", is_headless=True, initializer_range=0.05)
    training = Training(epochs=30, learning_rate=3e-3)  # the encoder is random: it has all to learn
    job = {"task": "text-ranking", "data": asked, "training": training, "variants": ("onnx-fp32",), "max_length": 32}
    report = _convert(encoder, tmp_path, cache, **job)
    assert _failures(report) == {"onnx-fp32": ""}
    parity = report.candidates[0].parity
    assert parity is not None
    assert parity.metric == "ndcg@10"
    assert (parity.accuracy or 0) > 0.95  # in any order 0.5
    with Predictor.load(report.bundle or "") as predictor:
        texts = ["手机壳 红色", "shoes red", "椅子 红色"]
        assert predictor.predict({"query": "我想买手机壳", "texts": texts}).ids[0] == "1"


def test_a_catalogue_gives_queries_with_the_products_that_look_alike(tmp_path: Path) -> None:
    products = [{"id": f"p{n}", "name": f"lamp {n} {'red' if n % 2 else '红色'}"} for n in range(30)]
    _lines(tmp_path / "corpus.jsonl", products)
    _lines(tmp_path / "queries_train.jsonl", [{"query": "chair", "relevant": ["p29", "p3"]}])
    _lines(
        tmp_path / "queries_test.jsonl",
        [{"query": "lamp 29 red", "relevant": ["p29"]}, {"query": "zzz", "relevant": ["p29"]}],
    )
    data = read_ranking(tmp_path)
    (learnt,), (found, missed) = data.train, data.test
    assert learnt["texts"][:2] == ["lamp 29 red", "lamp 3 red"]
    assert learnt["relevant"] == [0, 1]  # what is right is learnt from, found or not
    assert len(found["texts"]) == READ
    assert found["texts"][found["relevant"][0]] == "lamp 29 red"
    assert (missed["relevant"], missed["missing"]) == ([], 1)


def test_pairs_of_a_query_stay_in_one_split(tmp_path: Path) -> None:
    rows = [{"query": f"q{n}", "text": f"t{m}", "label": str(m % 2)} for n in range(40) for m in range(4)]
    data = read_ranking(_lines(tmp_path / "pairs.jsonl", rows))
    whole = [*data.train, *data.dev, *data.test]
    assert len(whole) == 40
    assert all(row["relevant"] == [1, 3] and row["texts"] == ["t0", "t1", "t2", "t3"] for row in whole)
    assert data.dev
    assert data.test


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a", "label": 1}, "expected a query"),
        ({"query": " ", "text": "a", "label": 1}, "expected a query"),
        ({"query": "q", "text": 5, "label": 1}, "expected query, text and a label"),
        ({"query": "q", "text": "a", "label": 2}, "label of 0 or 1"),
        ({"query": "q", "text": "a"}, "label of 0 or 1"),
        ({"query": "q", "texts": []}, "1 to 100 of them, got 0"),
        ({"query": "q", "texts": ["a"] * 101, "relevant": []}, "got 101"),
        ({"query": "q", "texts": "ab", "relevant": [0]}, "got str"),
        ({"query": "q", "texts": ["a", 7], "relevant": [0]}, "expected texts"),
        ({"query": "q", "texts": ["a"], "relevant": [1]}, "places in texts"),
        ({"query": "q", "texts": ["a"], "relevant": [True]}, "places in texts"),
        ({"query": "q", "texts": ["a"]}, "places in texts"),
    ],
)
def test_rows_that_rank_nothing_are_refused_by_their_place(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = _lines(tmp_path / "train.jsonl", [{"query": "q", "texts": ["a"], "relevant": [0]}, row])
    with pytest.raises(DataError, match=f"row 2.*{said}"):
        read_ranking(path.parent)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, "sigmoid"),
        ({"sbert_ce_default_activation_function": None}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
    ],
)
def test_the_folder_says_what_makes_a_score(tmp_path: Path, config: dict[str, Any], found: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_activation(tmp_path) == found


@pytest.mark.parametrize("name", ["torch.nn.modules.activation.Tanh", "my.own.Sigmoid", "Sigmoid"])
def test_another_activation_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"sbert_ce_default_activation_function": name}))
    with pytest.raises(CheckpointError, match="expected Sigmoid or Identity"):
        read_activation(tmp_path)


@pytest.mark.parametrize(
    ("config", "has_types", "found"),
    [
        ({"type_vocab_size": 2}, True, True),
        ({"type_vocab_size": 2}, False, False),
        ({"type_vocab_size": 1}, True, False),
        ({"type_vocab_size": 0}, True, False),
        ({}, True, False),
        ({"type_vocab_size": 2, "model_type": "distilbert"}, True, False),
    ],
)
def test_the_folder_says_whether_texts_are_told_apart(
    make_tokenizer: Callable[[str], PreTrainedTokenizerFast],
    tmp_path: Path,
    config: dict[str, Any],
    has_types: bool,
    found: bool,
) -> None:
    _save_tokenizer(make_tokenizer("wordpiece"), tmp_path, has_types)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert reads_types(tmp_path) is found


def test_a_head_of_several_labels_does_not_rank(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="head with 1 output, got 4"):
        _convert(make_checkpoint("bert"), tmp_path, tmp_path, task="text-ranking")


def test_an_encoder_without_data_cannot_rank(encoder_only: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no head that ranks"):
        _convert(encoder_only, tmp_path, tmp_path, task="text-ranking")


def test_overlap_is_of_the_better_half_or_of_ten() -> None:
    assert best_overlap(["0", "1", "2", "3"], ["1", "0", "3", "2"]) == 1.0
    assert best_overlap(["0", "1", "2", "3"], ["0", "3", "1", "2"]) == 0.5
    many = list(map(str, range(30)))
    assert best_overlap(many, many[::-1]) == 0.0
    assert best_overlap(many, ["10", *many[:9], *many[11:], "9"]) == 0.9


def test_built_in_items_can_be_ranked_wrongly() -> None:
    items = built_in_items()
    assert len(items) > 20
    assert all(len(item["texts"]) > 20 and item["query"].strip() for item in items)
    assert find_craft("text-ranking").task == "text-ranking"


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    def lines() -> Iterator[str]:
        return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    path.write_text("".join(lines()), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_card_says_whether_explanations_of_rankings_tell_the_truth(
    make_ranker: Callable[..., Path], asked: Path, cache: Path, tmp_path: Path
) -> None:
    encoder = make_ranker("bert", is_headless=True, initializer_range=0.05)
    training = Training(epochs=30, learning_rate=3e-3)
    job = {"task": "text-ranking", "data": asked, "training": training, "variants": ("onnx-fp32",), "max_length": 32}
    report = _convert(encoder, tmp_path, cache, **job)
    card = (Path(report.bundle or "") / "README.md").read_text(encoding="utf-8")
    found = re.search(r"words of the best text that .* label (\d\.\d+) of its .* random ones (\d\.\d+)", card)
    assert found is not None, card
    assert float(found[1]) > float(found[2])
