"""ONNX → the NumPy runtime: the nodes, the weights, and how they are packed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from doorstep.errors import ConversionError, EngineError, UsageError
from doorstep.session import Graph, SessionOptions, open_session
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.export.numpy import Network, read_onnx, write_network
from doorstep_converters.quantize.numpy import pack_weights, quantize, read_network
from doorstep_converters.targets import TARGETS
from doorstep_converters.worker import Channel

RANDOM = np.random.default_rng(5)
VOCABULARY, WIDTH, CLASSES = 300, 64, 40
WEIGHTS: dict[str, Array] = {
    "table": RANDOM.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
    "hidden": RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8,
    "bias": RANDOM.normal(size=WIDTH).astype(np.float32),
    "head": RANDOM.normal(size=(CLASSES, WIDTH)).astype(np.float32) / 8,
    "one_by_one": RANDOM.normal(size=(WIDTH, WIDTH, 1)).astype(np.float32) / 8,
    "root": np.array(np.sqrt(2), np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
    "axis": np.array([1]),
    "unread": np.ones(7, np.float32),
}
GELU = ("x", "halved"), ("halved", "x"), ("summed", "x"), ("x", "summed")
"""The inputs of GELU's last product, and by them the order of the two products."""


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def gelu(last: tuple[str, str], half: str = "half") -> list[onnx.NodeProto]:
    """Return `g`, the GELU of `x`, as exporters write it."""
    nodes = [
        node("Div", ["x", "root"], "scaled"),
        node("Erf", ["scaled"], "erf"),
        node("Add", ["erf", "one"], "summed"),
    ]
    if "halved" in last:
        return [*nodes, node("Mul", [half, "summed"], "halved"), node("Mul", list(last), "g")]
    return [*nodes, node("Mul", list(last), "product"), node("Mul", ["product", half], "g")]


def model(folder: Path, activation: list[onnx.NodeProto], opset: int = 18, domain: str = "") -> Path:
    """Write a model with every kind of weight that is packed: ids [batch, sequence] to scores [batch, CLASSES]."""
    nodes = [
        node("Gather", ["table", "ids"], "embedded"),
        node("MatMul", ["embedded", "hidden"], "product_h"),
        node("Add", ["product_h", "bias"], "x"),
        *activation,
        node("Transpose", ["g"], "channels", perm=[0, 2, 1]),
        node("Conv", ["channels", "one_by_one"], "convolved"),
        node("ReduceMax", ["convolved"], "pooled", axes=[2], keepdims=0)
        if opset < 18
        else node("ReduceMax", ["convolved", "last"], "pooled", keepdims=0),
        node("Gemm", ["pooled", "head"], "scores", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "every weight",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in {**WEIGHTS, "last": np.array([2])}.items()],
    )
    path = folder / "portable.onnx"
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def compare(network: Network, source: Path, folder: Path) -> float:
    """Return the largest difference of scores from ONNX Runtime's."""
    write_network(network, folder)
    specs = (TensorSpec("ids", "int64", ("batch", "sequence")),), (TensorSpec("scores", "float32", ("batch", CLASSES)),)
    session = open_session("numpy", Graph(folder / "model.json", *specs), SessionOptions())
    feeds = {"ids": RANDOM.integers(0, VOCABULARY, (3, 11))}
    expected = ort.InferenceSession(str(source)).run(None, feeds)[0]
    return float(np.abs(session.run(feeds)["scores"] - expected).max())


@pytest.mark.parametrize("last", GELU)
def test_a_gelu_in_any_order_becomes_one_node(last: tuple[str, str], tmp_path: Path) -> None:
    source = model(tmp_path, gelu(last))
    network = read_onnx(source)
    assert [made.op for made in network.nodes] == [
        "Gather", "MatMul", "Add", "Gelu", "Transpose", "Conv", "ReduceMax", "Gemm"
    ]  # fmt: skip
    assert compare(network, source, tmp_path) < 1e-5


@pytest.mark.parametrize(
    "activation",
    [
        gelu(("x", "halved"), half="one"),
        gelu(("embedded", "halved")),
        [node("Div", ["x", "half"], "d"), node("Erf", ["d"], "g")],
        [node("Div", ["x", "root"], "d"), node("Erf", ["d"], "g")],
        [*gelu(("x", "halved"))[:-1], node("Mul", ["halved", "summed"], "g")],
    ],
    ids=["another factor", "another tensor", "another divisor", "only its start", "its sum used twice"],
)
def test_what_only_looks_like_a_gelu_stays_as_it_is(activation: list[onnx.NodeProto], tmp_path: Path) -> None:
    source = model(tmp_path, activation)
    network = read_onnx(source)
    assert "Gelu" not in [made.op for made in network.nodes]
    assert compare(network, source, tmp_path) < 1e-5


def test_weights_that_nothing_reads_are_left_out(tmp_path: Path) -> None:
    network = read_onnx(model(tmp_path, gelu(("x", "halved"))))
    assert "unread" not in network.weights
    assert "root" not in network.weights


@pytest.mark.parametrize("is_int8, size, error", [(False, 2, 0.02), (True, 1, 0.2)])
def test_packed_weights_are_small_and_near(is_int8: bool, size: int, error: float, tmp_path: Path) -> None:
    source = model(tmp_path, gelu(("x", "halved")))
    network = read_onnx(source)
    packed = pack_weights(network, is_int8)
    assert compare(packed, source, tmp_path) < error
    large = [weight.itemsize for weight in packed.weights.values() if weight.size >= 1024]
    assert large == [size] * 4
    assert compare(packed, source, tmp_path) > 0


def test_a_packed_weight_that_is_read_twice_is_stored_once(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "hidden"], "again"), node("MatMul", ["again", "hidden"], "g")]
    packed = pack_weights(read_onnx(model(tmp_path, nodes)), is_int8=True)
    assert sum(made.op == "DequantizeLinear" for made in packed.nodes) == 5
    assert sum(weight.shape == (WIDTH, WIDTH) for weight in packed.weights.values()) == 1


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    network = read_onnx(model(tmp_path, gelu(("x", "halved"))))
    network.weights["table"] = np.zeros((VOCABULARY, WIDTH), np.float32)
    packed = pack_weights(network, is_int8=True)
    assert all(np.isfinite(weight).all() for weight in packed.weights.values())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    network = pack_weights(read_onnx(model(tmp_path, gelu(("x", "halved")))), is_int8=True)
    write_network(network, tmp_path)
    again = read_network(tmp_path / "model.json")
    assert again.nodes == network.nodes
    assert again.weights.keys() == network.weights.keys()


@pytest.mark.parametrize(
    "activation, message",
    [([helper.make_node("FastGelu", ["x"], ["g"], domain="com.microsoft")], "no standard operator")],
)
def test_an_operator_of_one_engine_is_refused(activation: list[onnx.NodeProto], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message):
        read_onnx(model(tmp_path, activation))


def test_an_opset_of_other_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="expected opset 13 to 21, got 12"):
        read_onnx(model(tmp_path, gelu(("x", "halved")), opset=12))


def test_an_attribute_of_an_older_opset_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    source = model(tmp_path, gelu(("x", "halved")), opset=17)
    with pytest.raises(EngineError, match="ReduceMax: the NumPy runtime knows no attribute 'axes'"):
        compare(read_onnx(source), source, tmp_path)


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    write_network(read_onnx(model(tmp_path, gelu(("x", "halved")))), tmp_path)
    with open(tmp_path / "log", "w") as log, pytest.raises(UsageError, match="has no 'static_wi8_ai8'"):
        quantize(tmp_path, Channel(log), str(tmp_path / "model.json"), "static_wi8_ai8", "", "", 32)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "armv7"])
def test_numpy_is_tried_only_on_request_where_there_are_engines(target: str) -> None:
    found = TARGETS[target]
    assert "numpy" not in {plan.runtime for plan in found.plans}
    assert "numpy" in {plan.runtime for plan in found.on_request}


def test_a_device_of_32_bits_gets_numpy_without_asking() -> None:
    assert "numpy" in {plan.runtime for plan in TARGETS["armv7"].plans}
