"""Explanations of converted models: exact where a model is linear, alike in every engine, and told in the card."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from doorstep import Predictor
from doorstep.bundle import seal
from doorstep.device import Device
from doorstep.errors import InputError, UsageError
from doorstep.explain import Faithfulness
from doorstep.pieces.linear import TOLERANCE
from doorstep.predictor import LoadOptions
from doorstep.tensors import Array
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import Columns, read_records
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.export.classifier import load_model
from doorstep_converters.job import Candidate, Job, Report, Training
from doorstep_converters.pack import empty_head, text_variant
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.progress import Lines
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.stages import StageRunner
from doorstep_converters.students.build import build_student
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.explained import faithfulness_note, play
from doorstep_converters.tasks.tabular_classification import read_table, save_estimator
from doorstep_converters.tasks.tabular_classification_estimator import adds_up
from doorstep_converters.variants import Workbench
from doorstep_converters.worker import Channel

LABELS = ("buy", "return", "ask", "complain")
ENGINES = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
TEXTS = ("arrived in two days, love it", "配送很快，包装也很好", "the parcel never came and nobody answered")


@pytest.fixture(scope="module")
def make_static(
    make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """Return a function that builds a static student with a hidden layer of some width, 0 for none."""

    def make(head: int) -> Path:
        folder = tmp_path_factory.mktemp("static") / f"head-{head}"
        teacher = find_checkpoint(str(make_checkpoint("bert")))
        build_student(folder, StudentSpec("static", 8, 200, head=head), teacher, [*PROBES, *SENTENCES], LABELS, 3)
        return folder

    return make


@pytest.mark.parametrize(("head", "is_linear"), [(0, True), (8, None)])
def test_only_a_static_student_without_a_hidden_layer_is_called_linear(
    make_static: Callable[[int], Path], head: int, is_linear: bool | None, tmp_path: Path
) -> None:
    folder = make_static(head)
    job = Job(str(folder), "x86-64", tmp_path, max_length=32)
    options = find_craft("text-classification").options(job, find_checkpoint(str(folder)))
    assert options.get("is_linear") == is_linear


@pytest.mark.slow
def test_a_static_student_is_explained_exactly_and_alike_in_every_engine(
    make_static: Callable[[int], Path], cache: Path, tmp_path: Path
) -> None:
    folder = make_static(0)
    job = Job(str(folder), "x86-64", tmp_path, cache=cache, variants=ENGINES, max_length=32, bound=Bound(0.0))
    report = convert(job, Lines())
    model = load_model(folder).eval()
    orders: dict[str, set[tuple[str, ...]]] = {text: set() for text in TEXTS}
    left_out: dict[str, set[tuple[str, ...]]] = {text: set() for text in TEXTS}
    bent = LoadOptions(task_options={"is_linear": False})
    for variant in ENGINES:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            for text in TEXTS:
                told = predictor.explain(text, label="buy")
                if variant != "onnx-int8":  # its activations are rounded, and may not add up
                    assert told.is_exact, variant
                    logit = _logits(model, predictor.prepare([text])[0].ids)[0]
                    assert told.logit == pytest.approx(logit, abs=0.01), variant
                    orders[text].add(_order(told.parts))
                if told.is_exact:
                    assert told.logit is not None
                    added = sum(part.weight for part in told.parts) + told.bias
                    assert abs(added - told.logit) <= TOLERANCE * max(1, abs(told.logit))
        with Predictor.load(report.bundle or "", variant=variant, strict=True, options=bent) as predictor:
            for text in TEXTS:
                told = predictor.explain(text, label="buy")
                assert not told.is_exact
                if variant != "onnx-int8":
                    left_out[text].add(_order(told.parts))
    for found in (orders, left_out):
        assert {text: len(order) for text, order in found.items()} == dict.fromkeys(TEXTS, 1)


def _order(parts: Any) -> tuple[str, ...]:
    return tuple(part.text for part in sorted(parts, key=lambda part: -part.weight))


def _logits(model: Any, ids: list[int]) -> list[float]:
    with torch.no_grad():
        told: list[float] = model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)).logits[0].tolist()
    return told


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return visits of a shop that buy when their value is high, most of all in December; some values are missing."""
    generator = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("visits") / "visits.csv"
    lines = ["value,month,pages,bought"]
    for _ in range(300):
        value, month, pages = (
            generator.uniform(0, 100),
            generator.choice(["May", "Dec", "五月"]),
            generator.integers(30),
        )
        bought = int(value + 20 * (month == "Dec") + generator.normal(0, 20) > 60)
        lines.append(f"{value if generator.random() > 0.1 else ''},{month},{pages},{bought}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _features(path: Path) -> tuple[Array, Array, Any]:
    from doorstep.tasks.tabular_classification import TabularEncoder

    table = read_table(read_records(path), "bought")
    encoder = TabularEncoder(table.fields)
    rows = np.array([encoder.encode(item, 0)["features"] for item, _ in table.train])
    return rows, np.array([table.labels.index(label) for _, label in table.train]), table


def _columns() -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer((numbers, [0, 1]), (OneHotEncoder(handle_unknown="ignore"), [2]))


@pytest.mark.parametrize(
    ("estimator", "is_linear"),
    [
        (make_pipeline(_columns(), LogisticRegression()), True),
        (make_pipeline(SimpleImputer(), MLPClassifier((8,), max_iter=50, random_state=1)), False),
        (HistGradientBoostingClassifier(max_iter=20), False),
        (HistGradientBoostingClassifier(max_iter=20, max_depth=1), True),  # one field a tree: they add up too
    ],
    ids=["logistic regression", "network", "trees", "stumps"],
)
@pytest.mark.filterwarnings("ignore")
def test_an_estimator_is_linear_where_its_fields_add_up(estimator: Any, is_linear: bool, visits: Path) -> None:
    rows, truth, _ = _features(visits)
    estimator.fit(rows, truth)
    assert adds_up(estimator.predict_proba, rows) is is_linear


@pytest.mark.slow
def test_a_linear_estimator_is_explained_by_its_weights_times_its_features(
    visits: Path, cache: Path, tmp_path: Path
) -> None:
    rows, truth, table = _features(visits)
    estimator = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(rows, truth)
    (tmp_path / "checkpoint").mkdir()
    save_estimator(estimator, table.fields, table.labels, rows, tmp_path / "checkpoint")
    job = Job(str(tmp_path / "checkpoint"), "x86-64", tmp_path, data=visits, columns=Columns(label="bought"),
              task="tabular-classification", cache=cache, variants=("onnx-fp32",), bound=Bound(0.0))  # fmt: skip
    report = convert(job, Lines())
    imputed, scale, weights = estimator[0].statistics_, estimator[1].scale_, estimator[2].coef_[0]
    with Predictor.load(report.bundle or "") as predictor:
        told = predictor.explain({"value": 80.0, "pages": 3}, label="1")
    assert told.is_exact
    for place, (field, value) in enumerate((("value", 80.0), ("pages", 3.0))):
        expected = weights[place] * (value - imputed[place]) / scale[place]
        assert told.fields[place].name == field
        assert told.fields[place].weight == pytest.approx(expected, abs=1e-3)
    row = np.array([[80.0, 3.0, np.nan]], np.float32)
    assert told.logit == pytest.approx(estimator.decision_function(row)[0], abs=1e-3)
    assert sum(field.weight for field in told.fields) + told.bias == pytest.approx(told.logit, abs=TOLERANCE)


def figures_of(report: Report) -> tuple[float, float]:
    """Return what the model card says that ranked and random deletions cost."""
    card = (Path(report.bundle or "") / "README.md").read_text(encoding="utf-8")
    found = re.search(r"highest costs .* (\d\.\d+) of its score on average, deleting random ones (\d\.\d+)", card)
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.slow
def test_the_card_of_texts_says_that_explanations_tell_the_truth(
    encoder_only: Path, reviews: Path, cache: Path, tmp_path: Path
) -> None:
    training = Training(epochs=30, learning_rate=3e-3)  # the encoder is random: it has all to learn
    job = Job(str(encoder_only), "x86-64", tmp_path, data=reviews, cache=cache, training=training,
              variants=("onnx-fp32",), bound=Bound(0.0))  # fmt: skip
    ranked, shuffled = figures_of(convert(job, Lines()))
    assert ranked > shuffled


@pytest.fixture
def make_words(make_tokenizer: Callable[[str], Any], tmp_path: Path) -> Callable[[Array], Path]:
    """Return a function that writes a bundle whose logits are the sums of a table's rows [tokens, classes]."""

    def make(table: Array) -> Path:
        folder = tmp_path / "words.bundle"
        (folder / "variants/onnx-fp32").mkdir(parents=True)
        (folder / "variants/onnx-fp32/model.onnx").write_bytes(_sums(table))
        (folder / "variants/onnx-fp32/model.onnx.data").write_bytes(b"\0")  # a convert's own files have two parts
        (folder / "tokenizer.json").write_text(make_tokenizer("wordpiece").backend_tokenizer.to_str(), "utf-8")
        (folder / "golden.json").write_text('{"format": 1, "examples": [], "tolerances": {}}', "utf-8")
        plan = VariantPlan("onnx", "none")
        options = {"labels": list(LABELS), "max_length": 32}
        seal(folder, empty_head("words", "text-classification", options, (text_variant(plan),)))
        return folder

    return make


def _sums(table: Array) -> bytes:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["logits"], keepdims=0),
    ]
    feeds = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", table.shape[1]])
    constants = {"table": table, "last": np.array([-1]), "axis": np.array([1])}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", feeds, [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class _Told(Lines):
    """Progress that keeps what stages say."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def note(self, name: str, text: str) -> None:
        self.said.append(f"{name}: {text}")


class _Bench(Workbench):
    """A workbench whose provisional bundle is at hand."""

    bundle: Path

    def provisional(self, trial: Any, plan: VariantPlan) -> Path:
        return self.bundle


@pytest.mark.parametrize(("size", "is_warned"), [(1.0, False), (0.0, True)])
def test_a_convert_warns_of_explanations_that_point_no_better_than_chance(
    make_words: Callable[[Array], Path], size: float, is_warned: bool, tmp_path: Path
) -> None:
    table = size * np.random.default_rng(3).normal(size=(400, len(LABELS)))
    evaluation = Evaluation(TEXTS, (), 0, (), (), "texts", 0)
    trial: Any = SimpleNamespace(
        evaluation=evaluation, options={}, artifacts={"onnx-fp32": SimpleNamespace(digest=str(size))}
    )
    runner, watch = StageRunner(tmp_path / "cache", tmp_path / "logs"), _Told()
    bench = _Bench(runner, tmp_path, watch, Device.detect(), is_pickle_allowed=False)
    bench.bundle = make_words(table.astype(np.float32))
    told = faithfulness_note(bench, trial, [Candidate(VariantPlan("onnx", "none"))], "words")
    assert "deleting the words that `explain` ranks highest costs the best label" in told["explanations"]
    assert ("not to be relied on" in told["explanations"]) is is_warned
    assert [note.startswith("explain: explanations: expected that deleting") for note in watch.said] == [
        True
    ] * is_warned


def test_an_item_of_too_many_parts_costs_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 33 filled fields could not be converted: the game refused, after everything was measured."""

    class Refuses:
        def __enter__(self) -> "Refuses":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def explain(self, item: str, max_parts: int) -> None:
            if item == "wide":
                raise InputError("item: expected at most 32 fields to explain, got 40")

        def faithfulness(self, items: list[str], max_parts: int) -> Faithfulness:
            for item in items:
                self.explain(item, max_parts)
            if not items:
                raise UsageError("faithfulness: expected an item of two parts or more, got none")
            return Faithfulness(len(items), 0.0)

    monkeypatch.setattr("doorstep_converters.tasks.explained.Predictor.load", lambda *_, **__: Refuses())
    channel = Channel(StringIO())
    assert play(tmp_path, channel, "", "onnx-fp32", ["a", "wide", "b"])["ranked"] == 2
    assert play(tmp_path, channel, "", "onnx-fp32", ["wide"]) == {}
