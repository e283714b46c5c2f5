"""Several labels at once, the whole way: sets in the data, thresholds from dev, sets that every engine gives alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from doorstep import Predictor
from doorstep.errors import DataError
from doorstep.golden import compare, load_golden
from doorstep_converters.data import Columns, load_data
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.finetune.train import _as_sets
from doorstep_converters.job import Job, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks.multi_label import compare_sets, label_sets, matrix, tuned_thresholds

LABELS = ("late", "broken", "太贵", "kind")
SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "type_vocab_size": 2, "initializer_range": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(
    make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("several") / "bert"
    torch.manual_seed(7)
    config = AutoConfig.for_model("bert", **SMALL)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {label: place for place, label in enumerate(LABELS)}
    config.problem_type = "multi_label_classification"
    AutoModelForSequenceClassification.from_config(config).half().float().save_pretrained(folder)
    make_tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reviews(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return texts whose labels are those that the checkpoint gives more than its own middle probability."""
    folder = tmp_path_factory.mktemp("reviews")
    words = ["the", "milk", "is", "late", "手机壳", "broke", "and", "too", "dear", "很慢", "nice", "staff"]
    draw = np.random.default_rng(7)
    texts = sorted({" ".join(draw.choice(words, draw.integers(2, 7))) for _ in range(260)})[:200]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = np.array([model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts])
    holds = logits > np.quantile(logits, [0.3, 0.6, 0.8, 0.5], axis=0).diagonal()
    draw.shuffle(order := np.arange(len(texts)))
    for split, part in (("train", order[:60]), ("dev", order[60:130]), ("test", order[130:])):
        rows = [{"text": texts[n], "label": [LABELS[k] for k in np.flatnonzero(holds[n])]} for n in part]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_sets_of_labels_are_given_alike_by_every_engine(
    checkpoint: Path, reviews: Path, cache: Path, tmp_path: Path
) -> None:
    variants = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")
    report = convert(
        Job(str(checkpoint), "x86-64-vnni", tmp_path, data=reviews, variants=variants, cache=cache), Lines()
    )
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    for candidate in report.candidates:
        assert candidate.parity is not None and candidate.measured is not None
        assert candidate.parity.metric == candidate.measured.metric == "micro-f1"
        assert candidate.parity.agreement >= 0.95
        assert (candidate.measured.accuracy or 0) > 0.95  # with 0.5 for every label it is below 0.8
    assert report.manifest is not None
    assert report.manifest.options["thresholds"].keys() == set(LABELS)
    assert any(abs(value - 0.5) > 0.05 for value in report.manifest.options["thresholds"].values())
    rows = [json.loads(line) for line in (reviews / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    for variant in variants:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            assert compare(predictor, load_golden(predictor.bundle)) == [], variant
    with Predictor.load(report.bundle or "", variant="onnx-fp32", strict=True) as predictor:
        found = [set(result.labels) for result in predictor.predict_many([row["text"] for row in rows])]
        right = [set(row["label"]) for row in rows]
        assert np.mean([one == other for one, other in zip(found, right, strict=True)]) > 0.85
        told = predictor.explain(rows[0]["text"], label="broken")
        assert told.label == "broken"
        assert told.score == pytest.approx(dict(predictor.predict(rows[0]["text"]).scores)["broken"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "prompt"])
def test_a_head_for_several_labels_is_learnt(checkpoint: Path, method: str, cache: Path, tmp_path: Path) -> None:
    """Each label depends on one word alone, so that the sets can be learnt."""
    base = tmp_path / "encoder"
    shutil.copytree(checkpoint, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for name in ("problem_type", "id2label", "label2id"):
        config.pop(name, None)
    (base / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}), encoding="utf-8")
    rows = _one_word_a_label(240)
    (tmp_path / "reviews.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    training = Training(method=method, epochs=100 if method == "full" else 1, learning_rate=3e-3)
    job = Job(
        str(base), "x86-64-vnni", tmp_path / "out", data=tmp_path / "reviews.jsonl", variants=("onnx-fp32",),
        cache=cache, training=training, name="reviews", bound=Bound(agreement=0.9),
    )  # fmt: skip
    report = convert(job, Lines())
    assert report.manifest is not None
    assert report.manifest.options["is_multi_label"]
    assert report.manifest.options["labels"] == ["broken", "late", "too dear"]
    if method == "full":
        (candidate,) = report.candidates
        assert candidate.measured is not None
        assert (candidate.measured.accuracy or 0) > 0.9  # micro-F1; all labels always would reach 0.67
        with Predictor.load(report.bundle or "") as predictor:
            assert set(predictor.predict("很慢 broke milk").labels) == {"late", "broken"}
            assert predictor.predict("the staff").labels == ()


def _one_word_a_label(count: int) -> list[dict[str, Any]]:
    words = {"late": "很慢", "broken": "broke", "too dear": "dear"}
    draw = np.random.default_rng(3)
    rows: dict[str, list[str]] = {}
    while len(rows) < count:
        labels = [label for label in words if draw.random() < 0.5]
        text = [words[label] for label in labels] + list(draw.choice(["the", "milk", "and", "nice", "staff"], 3))
        draw.shuffle(text)
        rows[" ".join(text)] = labels
    return [{"text": text, "label": labels} for text, labels in rows.items()]


def test_training_rows_with_a_label_that_the_head_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 'lost'"):
        _as_sets([["text", "late|lost"]], LABELS)
    assert _as_sets([["text", "late | kind"], ["none", "|"]], LABELS) == [
        ["text", [1.0, 0.0, 0.0, 1.0]],
        ["none", [0.0] * 4],
    ]


def _data(folder: Path, labels: list[Any]) -> Any:
    lines = [json.dumps({"text": f"text {n}", "label": label, "split": "dev"}) for n, label in enumerate(labels)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_data(folder / "rows.jsonl", Columns())


def test_a_row_names_its_labels_in_a_list_or_with_a_separator(tmp_path: Path) -> None:
    data = _data(tmp_path, ["late|broken", ["broken", "late"], " late | late ", [], "|", "kind"])
    assert label_sets(data, data.dev, LABELS) == [(0, 1), (0, 1), (0,), (), (), (3,)]


@pytest.mark.parametrize("label", ["late|lost", ["lost"], "late;broken"])
def test_a_label_that_the_head_lacks_is_named(tmp_path: Path, label: Any) -> None:
    data = _data(tmp_path, ["late", label])
    with pytest.raises(DataError, match="lacks 'l"):
        label_sets(data, data.dev, LABELS)


@pytest.mark.parametrize("label", [[None], {"late": 1}, [["late"]], ""])
def test_labels_that_are_none_are_refused(tmp_path: Path, label: Any) -> None:
    with pytest.raises(DataError, match="label"):
        _data(tmp_path, ["late", label])


def test_thresholds_are_tuned_on_dev_alone() -> None:
    probabilities = np.array([[0.1], [0.2], [0.3], [0.31], [0.32], [0.33], [0.34], [0.9], [0.9]], np.float32)
    truth: tuple[Any, ...] = ((), (), (0,), (0,), (0,), (0,), (0,), (), ())
    dev_and_test = Evaluation(tuple("abcdefghi"), truth, 7, (), (), "", probes=0)
    assert tuned_thresholds(probabilities, dev_and_test, ("late",)) == {"late": 0.25}
    only_test = Evaluation(tuple("abcdefghi"), truth, 0, (), (), "", probes=0)
    assert tuned_thresholds(probabilities, only_test, ("late",)) == {}


def test_a_label_seen_too_seldom_keeps_the_usual_threshold() -> None:
    evaluation = Evaluation(tuple("abcd"), ((0,), (), (), ()), 4, (), (), "", probes=0)
    assert tuned_thresholds(np.full((4, 1), 0.9, np.float32), evaluation, ("late",)) == {}


def test_sets_agree_only_where_every_label_does() -> None:
    expected = np.array([[0.9, 0.2], [0.6, 0.7]], np.float32)
    got = np.array([[0.8, 0.1], [0.6, 0.4]], np.float32)
    parity = compare_sets(expected, got, [(0,), (0, 1)], np.array([0.5, 0.5], np.float32))
    assert parity.agreement == 0.5
    assert parity.accuracy == pytest.approx(0.8)
    assert parity.reference_accuracy == 1.0
    assert matrix([(), (1,)], 2).tolist() == [[False, False], [False, True]]
