"""Weights of 8 and tables of 4 bits, against the weights they were made of."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from doorstep.session import Graph, SessionOptions, open_session
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.export.numpy import read_onnx, write_network
from doorstep_converters.quantize.numpy import pack_weights
from doorstep_converters.quantize.packed import half_bytes, pack

RANDOM = np.random.default_rng(5)
ROWS, WIDTH, CLASSES = 100, 32, 40


def write_model(path: Path, table: Array, is_turned: bool) -> Path:
    dense = RANDOM.normal(size=(CLASSES, table.shape[1]) if is_turned else (table.shape[1], CLASSES))
    product = helper.make_node("Gemm", ["mean", "dense"], ["scores"], transB=int(is_turned))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axes"], ["mean"], keepdims=0),
        product if is_turned else helper.make_node("MatMul", ["mean", "dense"], ["scores"]),
    ]
    weights = {"table": table, "dense": dense.astype(np.float32), "axes": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "one table",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def scores(path: Path, ids: Array) -> Array:
    answer: Array = ort.InferenceSession(str(path)).run(None, {"ids": ids})[0]
    return answer


def half_steps(weights: Array, levels: int, axis: int) -> Array:
    """Return how far rounding may move a weight: half a step of the grid of its row or column."""
    moved: Array = np.abs(weights).max(axis=axis, keepdims=True) / levels / 2
    return moved


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize(("bits", "width"), [(8, WIDTH), (4, WIDTH), (4, WIDTH + 1)])
def test_packed_weights_move_answers_no_further_than_rounding_can(
    bits: int, width: int, is_turned: bool, tmp_path: Path
) -> None:
    table = RANDOM.normal(size=(ROWS, width)).astype(np.float32)
    source = write_model(tmp_path / "source.onnx", table, is_turned)
    pack(source, tmp_path / "packed.onnx", bits)
    ids = RANDOM.integers(0, ROWS, (3, 7))
    difference = np.abs(scores(tmp_path / "packed.onnx", ids) - scores(source, ids))  # [texts, classes]
    dense = numpy_helper.to_array(onnx.load(source).graph.initializer[1])
    dense = dense.T if is_turned else dense  # [width, classes]
    moved = half_steps(table, 127 if bits == 8 else 7, 1)[ids].mean(axis=1)  # [texts, 1]
    means = np.abs(table[ids].mean(axis=1))  # [texts, width]
    bound = moved * np.abs(dense).sum(axis=0) + (means + moved).sum(axis=1, keepdims=True) * half_steps(dense, 127, 0)
    assert difference.max() > 0
    assert (difference <= bound * 1.01).all()
    stored = {
        weight.data_type
        for weight in onnx.load(tmp_path / "packed.onnx").graph.initializer
        if np.prod(weight.dims) > 1000
    }
    assert stored == {TensorProto.INT8} | ({TensorProto.UINT8} if bits == 4 else set())


@pytest.mark.parametrize("width", [WIDTH, WIDTH + 1])
def test_a_table_that_lies_on_the_grid_loses_nothing(width: int, tmp_path: Path) -> None:
    whole = RANDOM.integers(-7, 8, (ROWS, width))
    whole[:, 0] = 7  # each row reaches the end of the grid, as training leaves it
    table = (whole * RANDOM.uniform(0.1, 2, (ROWS, 1))).astype(np.float32)
    source = write_model(tmp_path / "source.onnx", table, True)
    ids = np.arange(ROWS)[:, None]
    pack(source, tmp_path / "four.onnx", 4)
    pack(source, tmp_path / "eight.onnx", 8)
    four, eight = (scores(tmp_path / f"{name}.onnx", ids) for name in ("four", "eight"))
    graph = onnx.load(source)
    dense = numpy_helper.to_array(graph.graph.initializer[1])
    scale = np.abs(dense).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(four, table @ (np.rint(dense / scale) * scale).T, atol=1e-3)
    assert np.abs(four - eight).max() < np.abs(eight).max() / 50


def test_a_row_of_zeros_stays_zero_in_half_bytes() -> None:
    packed, scale = half_bytes(np.zeros((3, 5), np.float32))
    assert packed.shape == (3, 3)
    assert (packed == 8 * 16 + 8).all()
    assert np.isfinite(scale).all()


def test_the_numpy_runtime_reads_half_bytes_as_onnx_runtime_does(tmp_path: Path) -> None:
    table = RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)
    source = write_model(tmp_path / "source.onnx", table, True)
    pack(source, tmp_path / "packed.onnx", 4)
    write_network(pack_weights(read_onnx(source), is_int8=True, has_int4_tables=True), tmp_path)
    specs = (TensorSpec("ids", "int64", ("batch", "sequence")),), (TensorSpec("scores", "float32", ("batch", CLASSES)),)
    session = open_session("numpy", Graph(tmp_path / "model.json", *specs), SessionOptions())
    ids = RANDOM.integers(0, ROWS, (3, 7))
    np.testing.assert_allclose(session.run({"ids": ids})["scores"], scores(tmp_path / "packed.onnx", ids), atol=1e-4)
