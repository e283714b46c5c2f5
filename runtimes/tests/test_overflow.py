"""int8 sums keep clear of 16 bits: on AVX2 without VNNI an engine's default may not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from doorstep.session import Graph, SessionOptions, open_session
from doorstep.tensors import TensorSpec

WIDTH, CLASSES = 64, 8


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_the_largest_int8_weights_are_summed_right(kind: type[np.integer], tmp_path: Path) -> None:
    """Each pair of products here is 2 x 255 x 127 = 64,770, past the 32,767 of an int16."""
    weights = np.full((WIDTH, CLASSES), 127, kind)
    nodes = [
        helper.make_node("MatMulInteger", ["x", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["scores"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    inputs = (TensorSpec("x", "uint8", ("batch", WIDTH)),)
    outputs = (TensorSpec("scores", "float32", ("batch", CLASSES)),)
    session = open_session("onnx", Graph(path, inputs, outputs), SessionOptions())
    scores = session.run({"x": np.full((3, WIDTH), 255, np.uint8)})["scores"]
    np.testing.assert_array_equal(scores, np.full((3, CLASSES), WIDTH * 255 * 127, np.float32))
