"""Every task beyond text classification, the whole way on small checkpoints, and its bad input."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, PreTrainedTokenizerFast

from doorstep import Predictor
from doorstep.errors import CheckpointError, DataError, InputError, ParityError, UsageError
from doorstep.golden import compare, load_golden
from doorstep.manifest import Measured
from doorstep.tasks.search import add_products
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import Columns
from doorstep_converters.job import Candidate, Job, Report
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, require_bundle
from doorstep_converters.progress import Lines
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.report import summary, to_plain, write_report
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.tasks.rankings import ndcg, overlap, recall
from doorstep_converters.tasks.sentence_similarity import read_recipe
from doorstep_converters.tasks.token_classification import span_f1
from doorstep_converters.worker import Channel

VARIANTS = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "type_vocab_size": 2, "initializer_range": 0.4,
}  # fmt: skip
TAGS = ("O", "B-thing", "I-thing")
ANY = Bound(0.0)


def _convert(checkpoint: str, out: Path, cache: Path, **changes: Any) -> Report:
    variants = changes.pop("variants", VARIANTS)
    job = Job(checkpoint, "x86-64-vnni", out, cache=cache, variants=variants, **{"bound": ANY, **changes})
    return convert(job, Lines())


def _answers_its_golden_examples(report: Report, variants: tuple[str, ...]) -> None:
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    assert report.bundle is not None
    for variant in variants:
        with Predictor.load(report.bundle, variant=variant, strict=True) as predictor:
            golden = load_golden(predictor.bundle)
            assert len(golden.examples) > 5
            assert compare(predictor, golden) == [], variant


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tagger(make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with a token head."""
    folder = tmp_path_factory.mktemp("tagger") / "bert"
    torch.manual_seed(7)
    config = AutoConfig.for_model("bert", **SMALL)
    config.id2label = dict(enumerate(TAGS))
    config.label2id = {label: place for place, label in enumerate(TAGS)}
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    make_tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences(
    make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a sentence-transformers folder: mean and max pooling, a linear layer, prompts."""
    folder = tmp_path_factory.mktemp("sentences") / "bert"
    torch.manual_seed(7)
    AutoModel.from_config(AutoConfig.for_model("bert", **SMALL)).save_pretrained(folder)
    make_tokenizer("wordpiece").save_pretrained(folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    plain = [
        {"idx": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(plain))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "2_Dense").mkdir()
    dense = {
        "in_features": 64,
        "out_features": 24,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense/config.json").write_text(json.dumps(dense))
    from safetensors.torch import save_file

    layer = torch.nn.Linear(64, 24)
    save_file(
        {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}, folder / "2_Dense/model.safetensors"
    )
    prompts = {"prompts": {"query": "is the ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture(scope="session")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return texts with labelled spans, some Chinese, in three splits."""
    return _write_spans(tmp_path_factory.mktemp("spans"), "add {} now")


def _write_spans(folder: Path, dev: str) -> Path:
    things = ["milk", "shoes", "手机壳", "a lamp", "椅子", "tea"]
    patterns = {"train": ["add {} please", "我想买{}"], "dev": [dev], "test": ["send back {} now"]}
    for split, forms in patterns.items():
        rows = []
        for form, thing in product(forms, things * 3):
            text = form.format(thing)
            start = text.index(thing)
            rows.append({"text": text, "spans": [{"slot": "thing", "start": start, "end": start + len(thing)}]})
        _lines(folder / f"{split}.jsonl.gz", rows)
    return folder


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalogue with queries."""
    folder = tmp_path_factory.mktemp("shop")
    names = [
        f"{colour} {thing} {n}"
        for n, thing in enumerate(("shoes", "lamp", "手机壳", "tea", "chair"), 1)
        for colour in ("red", "blue", "green", "红色")
    ]
    products = [{"id": f"p{n}", "name": name, "price": float(n)} for n, name in enumerate(names)]
    _lines(folder / "corpus.jsonl", products)
    _lines(folder / "queries_test.jsonl", [{"query": row["name"], "relevant": [row["id"]]} for row in products[::2]])
    return folder


@pytest.fixture(scope="session")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return visits of a shop that buy when their value is high; some fields are missing."""
    generator = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("visits") / "visits.csv"
    lines = ["value,month,pages,bought"]
    for _ in range(400):
        value, month = generator.uniform(0, 100), generator.choice(["May", "Dec", "五月"])
        bought = int(value + 20 * (month == "Dec") + generator.normal(0, 5) > 60)
        shown = "" if generator.random() < 0.05 else f"{value:.3f}"
        lines.append(f"{shown},{month},{generator.integers(1, 30)},{bought}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_token_head_gives_the_same_spans_in_every_engine(
    tagger: Path, spans: Path, cache: Path, tmp_path: Path
) -> None:
    assert guess_task(str(tagger)) == "token-classification"
    report = _convert(str(tagger), tmp_path, cache, data=spans, max_length=32)
    _answers_its_golden_examples(report, VARIANTS)
    exact = next(c for c in report.candidates if c.plan.name == "onnx-fp32")
    assert exact.parity is not None
    assert exact.parity.agreement == 1.0
    assert exact.parity.metric == "span-f1"


@pytest.mark.slow
def test_a_token_head_is_learnt_from_spans(encoder_only: Path, cache: Path, tmp_path: Path) -> None:
    from doorstep_converters.job import Training

    (folder := tmp_path / "spans").mkdir()
    spans = _write_spans(folder, dev="add {} please")  # the epoch is kept that does best on what is asked below
    training = Training(epochs=150, learning_rate=5e-3)  # the encoder is random: it has all to learn
    job = {"task": "token-classification", "data": spans, "training": training, "variants": ("onnx-fp32",)}
    report = _convert(str(encoder_only), tmp_path, cache, **job)
    assert report.bundle is not None
    with Predictor.load(report.bundle) as predictor:
        found = predictor.predict("add 手机壳 please").spans
        told = predictor.explain("add 手机壳 please")
    assert [(span.label, span.text) for span in found] == [("thing", "手机壳")]
    assert told.label == "4-7 thing"
    assert {part.text for part in sorted(told.parts, key=lambda part: -part.weight)[:3]} & set("手机壳")
    assert "highest costs the surest span" in (report.bundle / "README.md").read_text("utf-8")


def test_a_token_head_learns_without_a_rate_being_named(encoder_only: Path, tmp_path: Path) -> None:
    rows = [{"text": "add 手机壳 please", "spans": [[4, 7, "thing"]]}] * 4
    options = {"seed": 1, "epochs": 1, "learning_rate": None, "max_length": 16}
    channel = Channel(StringIO())
    found = find_craft("token-classification").train(
        tmp_path, channel, encoder_only, {"train": rows, "dev": rows}, options
    )
    assert found["steps"] == 1
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_sentence_vectors_agree_in_every_engine(sentences: Path, cache: Path, tmp_path: Path) -> None:
    report = _convert(str(sentences), tmp_path, cache, task="sentence-similarity", bound=Bound(), max_length=32)
    variants = tuple(name for name in VARIANTS if name != "onnx-int8")
    assert {c.plan.name for c in report.candidates if not c.failure} >= set(variants)
    with Predictor.load(report.bundle or "", variant="onnx-fp32") as predictor:
        assert len(predictor.predict("oat milk").values) == 24
        assert predictor.manifest.options["default_prompt"] == "query"
        assert compare(predictor, load_golden(predictor.bundle)) == []
    assert "highest costs the likeness to the whole text" in (Path(report.bundle or "") / "README.md").read_text(
        "utf-8"
    )


def test_what_a_device_reads_of_a_text_is_long_enough_for_products_too(tmp_path: Path, cache: Path) -> None:
    """With the queries' length alone, a product added on the device got another vector than the same one shipped."""
    products = [{"id": f"p{n}", "name": f"lamp {n} " + "with a long description " * 8} for n in range(12)]
    _lines(tmp_path / "corpus.jsonl", products)
    for split in ("train", "dev", "test"):
        _lines(tmp_path / f"queries_{split}.jsonl", [{"query": "lamp", "relevant": ["p1"]}])
    craft, job = find_craft("search"), Job("x", "x86-64", tmp_path / "out", data=tmp_path, cache=cache)
    planned = craft.plan(job, craft.read(job), cast(Checkpoint, None))
    assert {"lamp", products[0]["name"].strip()} <= {text.strip() for text in planned.calibration}


@pytest.mark.slow
def test_a_catalogue_is_searched_in_every_engine_and_grows(
    sentences: Path, shop: Path, cache: Path, tmp_path: Path
) -> None:
    variants = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")
    report = _convert(str(sentences), tmp_path, cache, task="search", data=shop, variants=variants, max_length=32)
    _answers_its_golden_examples(report, variants)
    with Predictor.load(report.bundle or "") as predictor:
        assert predictor.predict("红色 手机壳").hits[0].fields["name"].startswith("红色 手机壳")
        cheap = predictor.predict({"query": "shoes", "filters": {"price": {"max": 1}}, "top_k": 5})
        assert {hit.id for hit in cheap.hits} == {"p0", "p1"}
        add_products(predictor, [{"id": "new", "name": "purple umbrella"}])
        assert predictor.predict("umbrella").hits[0].id == "new"
        with pytest.raises(Exception, match="expected a text to search for"):
            predictor.predict({"query": "  "})
    assert "highest costs the product found first" in (Path(report.bundle or "") / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "variants"),
    [
        ("trees", ("onnx-fp32",)),
        ("mlp", VARIANTS),
    ],
)
def test_tables_are_learnt_and_answered(
    kind: str, variants: tuple[str, ...], visits: Path, cache: Path, tmp_path: Path
) -> None:
    columns = Columns(label="bought")
    job = {"task": "tabular-classification", "data": visits, "columns": columns, "variants": variants}
    report = _convert(f"new:{kind}", tmp_path, cache, **job)
    _answers_its_golden_examples(report, variants)
    assert report.candidates[0].parity is not None
    assert (report.candidates[0].parity.accuracy or 0) > 0.9  # the area under the curve
    with Predictor.load(report.bundle or "") as predictor:
        assert predictor.predict({"value": 95.0, "month": "Dec", "pages": 3}).label == "1"
        assert predictor.predict({"month": "never seen"}).label in ("0", "1")
        told = predictor.explain({"value": 95.0, "month": None, "pages": 3})
        assert [field.name for field in told.fields] == ["value", "pages"]
        assert max(told.fields, key=lambda field: field.weight).name == "value"
        left = dict(predictor.predict({"pages": 3}).scores)[told.label]
        assert told.fields[0].weight == pytest.approx(told.score - left, abs=0.01)  # a batch rounds otherwise
        assert told.to_dict()["fields"][1]["value"] == 3
        with pytest.raises(InputError, match="at most 1 fields"):
            predictor.explain({"value": 95.0, "pages": 3}, max_parts=1)
    card = (Path(report.bundle or "") / "README.md").read_text(encoding="utf-8")
    assert "deleting the fields that `explain` ranks highest" in card
    ranked, shuffled = map(float, re.search(r"best label (\S+) of its .* random ones (\d\.\d+)", card).groups())  # type: ignore[union-attr]
    assert ranked > shuffled


@pytest.mark.slow
def test_a_report_says_of_every_engine_that_cannot_run_trees_why(visits: Path, cache: Path, tmp_path: Path) -> None:
    engines = ("onnx", "openvino", "tflite", "numpy")
    job = {"task": "tabular-classification", "data": visits, "columns": Columns(label="bought")}
    report = _convert("new:trees", tmp_path, cache, variants=engines, **job)
    assert [candidate.plan.name for candidate in report.candidates] == ["onnx-fp32"]
    plain = json.loads(write_report(report, tmp_path).with_suffix(".json").read_text(encoding="utf-8"))
    assert {name.partition("-")[0] for name in plain["excluded"]} == set(engines)
    assert all("trees run in ONNX Runtime alone" in reason for reason in plain["excluded"].values())
    assert {f"not tried  {name}: {reason}" for name, reason in plain["excluded"].items()} <= set(
        summary(report).splitlines()
    )
    alone = _convert("new:trees", tmp_path / "alone", cache, variants=("tflite",), **job)
    with pytest.raises(ParityError, match="tflite-fp16: trees run in ONNX Runtime alone"):
        require_bundle(alone)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a b"}], "a list of spans"),
        ([{"text": 3, "spans": []}], "expected a text"),
        ([{"text": "a b", "spans": [{"start": 0, "end": 1}]}], "label, start and end"),
        ([{"text": "a b", "spans": [{"slot": "x", "start": 0, "end": 9}]}], "outside the text"),
        ([{"text": "a b", "spans": [{"slot": "x", "start": 1, "end": 1}]}], "outside the text"),
        (
            [{"text": "abc", "spans": [{"slot": "x", "start": 0, "end": 2}, {"slot": "y", "start": 1, "end": 3}]}],
            "over another",
        ),
        ([{"text": "abc", "spans": ["x"]}], "label, start and end"),
    ],
)
def test_spans_that_are_none_are_refused_by_row(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    path = _lines(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match=said):
        find_craft("token-classification").read(Job("x", "x86-64", tmp_path, data=path.parent))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "expected products"),
        ({"corpus.jsonl": [{"name": "x"}]}, "an id"),
        ({"corpus.jsonl": [{"id": "1", "name": "x"}, {"id": "1", "name": "y"}]}, "twice"),
        ({"corpus.jsonl": [{"id": "1", "colour": "x"}]}, "one of name"),
        (
            {"corpus.jsonl": [{"id": "1", "name": "x"}], "queries_dev.jsonl": [{"query": "x", "relevant": ["2"]}]},
            "no product",
        ),
        ({"corpus.jsonl": [{"id": "1", "name": "x"}], "queries_dev.jsonl": [{"query": ""}]}, "expected a query"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    for name, rows in files.items():
        _lines(tmp_path / name, rows)
    with pytest.raises(DataError, match=said):
        find_craft("search").read(Job("x", "x86-64", tmp_path, data=tmp_path))


@pytest.mark.parametrize(
    ("module", "pooling", "said"),
    [
        ("sentence_transformers.models.WordWeights", {"pooling_mode_mean_tokens": True}, "WordWeights"),
        ("sentence_transformers.models.Pooling", {"pooling_mode_mean_tokens": False}, "its pooling"),
        (
            "sentence_transformers.models.Pooling",
            {"pooling_mode_mean_tokens": True, "include_prompt": False},
            "its pooling",
        ),
    ],
)
def test_sentence_folders_of_unknown_parts_are_refused(
    tmp_path: Path, module: str, pooling: dict[str, Any], said: str
) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": module, "path": "1_Pooling"}]))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    with pytest.raises(CheckpointError, match=said):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("modules.json", '{"a": 1}', "expected a list of modules"),
        ("modules.json", "[1]", "expected a list of modules"),
        ("modules.json", '[{"type": "x.Pooling", "path": "../../1_Pooling"}]', "expected folders such as 1_Pooling"),
        ("1_Pooling/config.json", "[1]", "expected a JSON object"),
        ("1_Pooling/config.json", '{"pooling_mode": 5}', "its pooling"),
    ],
)
def test_sentence_folders_that_are_damaged_say_so(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "x.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "text", "said"),
    [
        ("new:forest", "a,label\n1,x\n2,y\n", "new:trees or new:mlp"),
        ("/nowhere", "a,label\n1,x\n2,y\n", "no config.json"),
    ],
)
def test_tables_need_a_known_kind(tmp_path: Path, checkpoint: str, text: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        find_craft("tabular-classification").find(Job(checkpoint, "x86-64", tmp_path))


@pytest.mark.parametrize(
    ("text", "said"), [("a,b\n1,2\n", "--label-column"), ("a,label\n1,x\n2,x\n", "two or more labels")]
)
def test_tables_without_labels_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        find_craft("tabular-classification").read(Job("new:trees", "x86-64", tmp_path, data=tmp_path / "rows.csv"))


def test_an_unknown_task_names_the_known() -> None:
    with pytest.raises(UsageError, match="text-classification, token-classification"):
        find_craft("mind-reading")


def test_figures_are_what_their_names_say() -> None:
    assert span_f1([{(0, 1, "x"), (2, 3, "y")}], [{(0, 1, "x")}]) == pytest.approx(2 / 3)
    assert ndcg(["a", "b"], {"b"}) == pytest.approx(1 / np.log2(3))
    assert overlap({"a": 1, "b": 1}, {"b": 1, "c": 1}) == 0.5
    assert recall([*"abcdefghijkl"], {"a", "j", "k", "z"}) == 0.5  # k stands behind the tenth, z nowhere
    assert recall(["a"], set()) == 0.0


@pytest.mark.parametrize(
    ("task", "truth"),
    [("search", [["a", "c"], ["x"]]), ("text-ranking", [["a", "c"], ["x"]]), ("next-item", ["a", "x"])],
)
def test_rankings_are_judged_by_recall_too(task: str, truth: list[Any]) -> None:
    expected: list[dict[str, float]] = [{"a": 0.9, "b": 0.5}, {"a": 0.9}]
    craft = find_craft(task)
    parity = craft.compare(expected, expected, truth)
    assert parity.metric == "ndcg@10"
    assert parity.recall_at_10 == pytest.approx(0.5 if task == "next-item" else 0.25)
    assert parity.accuracy == parity.reference_accuracy
    assert craft.compare(expected, expected, None).recall_at_10 is None


def test_a_report_shows_recall_beside_the_gain(tmp_path: Path) -> None:
    plan = VariantPlan("onnx", "none")
    parity = find_craft("search").compare([{"a": 0.9}], [{"a": 0.9}], [["a", "b"]])
    measured = Measured(bytes=1, accuracy=0.6131, metric="ndcg@10", recall_at_10=0.5)
    for candidate, shown in (
        (Candidate(plan, "", parity, measured), "0.5000"),
        (Candidate(plan, "", parity), "0.5000"),
    ):
        report = Report("shop", "x86-64", None, None, (candidate,), {}, {}, {}, {})
        assert f"onnx-fp32: recall@10 {shown} beside ndcg@10" in summary(report)
        plain = to_plain(report)["candidates"][0]
        assert plain["parity"]["recall_at_10"] == 0.5
        assert "recall@10 0.5000" in write_report(report, tmp_path).read_text(encoding="utf-8")
    other = Candidate(plan, "", replace(parity, recall_at_10=None))
    assert "recall" not in summary(Report("shop", "x86-64", None, None, (other,), {}, {}, {}, {}))
