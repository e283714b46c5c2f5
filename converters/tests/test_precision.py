"""Ranges of activations, and layers that stay in floating point: measured on graphs with one loud value or layer."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import load_tensors_data

from doorstep.bundle import Bundle
from doorstep.errors import ConversionError, UsageError
from doorstep.tensors import Array
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.quantize import onnx as onnx_quantizer
from doorstep_converters.quantize import openvino as openvino_quantizer
from doorstep_converters.quantize import openvino_layers
from doorstep_converters.quantize.mixed import agreeing, distance, tries, weigh_graph
from doorstep_converters.quantize.onnx_layers import OnnxLayers
from doorstep_converters.recipe import SHORT_NAMES, VariantPlan, split_recipe
from doorstep_converters.report import summary, to_plain
from doorstep_converters.targets import TARGETS
from doorstep_converters.worker import Channel

WIDTH, CLASSES = 16, 4


def write_graph(path: Path) -> Path:
    """Two layers; between them every row is brought to one size."""
    random = np.random.default_rng(3)
    weights = {
        "w1": random.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "w2": random.normal(size=(WIDTH, CLASSES)).astype(np.float32),
        "ones": np.ones(WIDTH, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"], name="first"),
        helper.make_node("LayerNormalization", ["hidden", "ones"], ["even"], name="even"),
        helper.make_node("MatMul", ["even", "w2"], ["product"], name="second"),
        helper.make_node("Relu", ["product"], ["scores"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def make_feeds(count: int = 64, loudest: float = 1.0) -> list[dict[str, Array]]:
    """Return feeds of one to three rows; the first row is as loud as asked, which drowns the others in int8."""
    random = np.random.default_rng(4)
    feeds = [{"x": random.normal(size=(1 + place % 3, WIDTH)).astype(np.float32)} for place in range(count)]
    for feed in feeds:
        feed["x"][0] *= loudest
    return feeds


@pytest.fixture
def channel() -> Channel:
    return Channel(sys.stderr)


@pytest.mark.parametrize("recipe", SHORT_NAMES)
def test_a_recipe_s_name_decodes_into_what_the_engine_computes_and_a_word(recipe: str) -> None:
    base, word = split_recipe(recipe)
    assert base in SHORT_NAMES
    assert recipe == f"{base}_{word}".rstrip("_")
    assert VariantPlan("onnx", recipe).name.endswith(word)


@pytest.mark.parametrize("target", TARGETS)
def test_every_named_recipe_of_a_target_is_one_variant(target: str) -> None:
    plans = (*TARGETS[target].plans, *TARGETS[target].on_request)
    assert len({plan.name for plan in plans}) == len(set(plans))


@pytest.mark.parametrize("word", ["percentile", "entropy"])
def test_rare_values_are_cut_from_the_range_in_onnx_runtime(word: str, tmp_path: Path) -> None:
    source = write_graph(tmp_path / "graph.onnx")
    feeds = make_feeds(1500)
    feeds[17]["x"][0, 3] = 500.0
    widths = {}
    for name in ("", word):
        ranges = onnx_quantizer.Ranges.measure(source, name, feeds, tmp_path, onnx_quantizer.DENSE)
        lowest, highest = load_tensors_data(ranges.path)["x"].range_value
        widths[name] = highest.item() - lowest.item()
    assert widths[""] > 500
    assert 4 < widths[word] < 0.9 * widths[""]


def test_texts_of_several_lengths_make_one_histogram(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "graph.onnx")
    lengths = {feed["x"].shape[0] for feed in make_feeds()}
    assert len(lengths) == 3
    ranges = onnx_quantizer.Ranges.measure(source, "percentile", make_feeds(), tmp_path, onnx_quantizer.DENSE)
    assert ranges.path.is_file()


def test_openvino_s_estimators_find_different_ranges(tmp_path: Path) -> None:
    source, random = write_graph(tmp_path / "graph.onnx"), np.random.default_rng(6)
    feeds = [{"x": random.normal(size=(1500, WIDTH)).astype(np.float32)} for _ in range(8)]
    feeds[3]["x"][0] = 500.0
    widest = {}
    for word in ("", "minmax", "percentile", "histogram"):
        model = openvino_quantizer.static(ov.Core().read_model(source), feeds, word)
        first = next(node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize")
        widest[word] = round(float(np.abs(first.input_value(2).get_node().get_data()).max()), 3)
    assert max(widest, key=lambda word: widest[word]) == "minmax"
    assert len(set(widest.values())) >= 3


@pytest.mark.parametrize("recipe", ["dynamic_wi8_afp32_mixed", "static_wi8_ai8_mixed"])
def test_the_layer_that_int8_ruins_weighs_most_and_alone_stays_in_float(
    recipe: str, tmp_path: Path, channel: Channel
) -> None:
    source, feeds = write_graph(tmp_path / "graph.onnx"), make_feeds(loudest=1000.0)
    found = weigh_graph(OnnxLayers(source, recipe, feeds, tmp_path), feeds, 0.95, channel)
    assert found["ranking"][0] == ["first"]
    assert found["distances"][0] > 10 * found["distances"][1]
    assert found["kept"] == 1


def test_nothing_stays_in_float_where_int8_is_good_enough(tmp_path: Path, channel: Channel) -> None:
    source, feeds = write_graph(tmp_path / "graph.onnx"), make_feeds()
    graph = OnnxLayers(source, "dynamic_wi8_afp32_mixed", feeds, tmp_path)
    assert weigh_graph(graph, feeds, 0.9, channel)["kept"] == 0


def test_openvino_weighs_the_same_layer_most(tmp_path: Path, channel: Channel) -> None:
    source, feeds = write_graph(tmp_path / "graph.onnx"), make_feeds(loudest=1000.0)
    found = weigh_graph(openvino_layers.OpenVinoLayers(source, feeds), feeds, 0.95, channel)
    assert found["ranking"][0] == ["first"]
    assert found["kept"] == 1


def test_what_is_kept_is_computed_in_float_and_the_rest_in_int8(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "graph.onnx")
    onnx_quantizer.dynamic(source, tmp_path / "mixed.onnx", excluded=["first"])
    nodes = {node.op_type for node in onnx.load(tmp_path / "mixed.onnx").graph.node}
    stored = {weight.name: weight.data_type for weight in onnx.load(tmp_path / "mixed.onnx").graph.initializer}
    assert stored["w1"] == TensorProto.FLOAT
    assert "w2" not in stored
    assert "MatMul" in nodes
    assert nodes & {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


def test_a_graph_without_layers_is_refused(tmp_path: Path, channel: Channel) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph([node], "none", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "g.onnx")
    layers = OnnxLayers(tmp_path / "g.onnx", "dynamic_wi8_afp32_mixed", make_feeds(), tmp_path)
    with pytest.raises(ConversionError, match="no layer that could be quantized"):
        weigh_graph(layers, make_feeds(), 0.9, channel)


@pytest.mark.parametrize("recipe", ["static_wi8_ai8_histogram", "static_wi8_ai8_controlled"])
def test_an_engine_refuses_ranges_it_does_not_have(recipe: str, tmp_path: Path, channel: Channel) -> None:
    with pytest.raises(UsageError, match="has no"):
        onnx_quantizer.quantize(tmp_path, channel, str(tmp_path / "model.onnx"), recipe, "", "", 32)


def test_more_groups_stay_in_float_with_each_try_and_never_all() -> None:
    groups = [[str(number)] for number in range(20)]
    assert [len(kept) for kept in tries(groups, 0)] == [0, 1, 2, 4]
    assert [len(kept) for kept in tries(groups, 9)] == [9, 18, 19]


def test_an_answer_that_is_no_number_is_infinitely_far() -> None:
    answers = [[np.array([[1.0, np.nan]], np.float32)]]
    assert distance([[np.ones((1, 2), np.float32)]], answers) == float("inf")
    assert (
        agreeing(
            [[np.array([[0.0, 1.0]])], [np.array([[0.0, 1.0]])]], [[np.array([[0.0, 2.0]])], [np.array([[3.0, 1.0]])]]
        )
        == 0.5
    )


WANTED = (
    "onnx-int8-static-entropy", "onnx-int8-mixed", "onnx-int8-static-mixed", "openvino-int8-static-histogram",
    "openvino-int8-static-mixed", "openvino-int8-static-controlled", "tflite-int8-static-minmax",
)  # fmt: skip


@pytest.mark.slow
def test_every_range_and_mix_is_made_on_request_and_says_what_it_kept(
    make_checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    checkpoint, bound = str(make_checkpoint("bert")), Bound(agreement=0.5)
    job = Job(checkpoint, "x86-64-vnni", tmp_path, cache=cache, variants=WANTED, max_length=32, bound=bound)
    report = convert(job, Lines())
    assert {one.plan.name: one.failure for one in report.candidates} == dict.fromkeys(WANTED, "")
    assert report.bundle is not None
    manifest = Bundle.open(report.bundle).manifest
    notes = {variant.name: variant.notes for variant in manifest.variants if variant.notes}
    assert sorted(notes) == ["onnx-int8-mixed", "onnx-int8-static-mixed", "openvino-int8-static-controlled",
                             "openvino-int8-static-mixed"]  # fmt: skip
    card, table, plain = (report.bundle / "README.md").read_text(encoding="utf-8"), summary(report), to_plain(report)
    for name, note in notes.items():
        assert note.startswith("kept in floating point: ")
        assert f"{name}: {note}" in card
        assert f"{name}: {note}" in table
        assert any(row["notes"] == note for row in plain["candidates"])


@pytest.mark.slow
def test_the_gate_on_held_out_items_asks_for_more_layers_in_float(
    make_checkpoint: Callable[[str], Path], reviews: Path, tmp_path: Path, cache: Path
) -> None:
    """No label of a random model would change: a bound that only fp32 reaches makes every try fail."""
    job = Job(
        str(make_checkpoint("bert")), "x86-64-vnni", tmp_path, data=reviews, cache=cache, variants=("onnx-int8-mixed",),
        max_length=32, bound=Bound(agreement=1.0, drop=-100.0),
    )  # fmt: skip
    candidate = convert(job, Lines()).candidates[0]
    assert candidate.notes.count(",") >= 1
    assert "encoder.layer" in candidate.notes
