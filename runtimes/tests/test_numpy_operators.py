"""Every operator of the NumPy runtime against ONNX Runtime."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from doorstep.tensors import Array
from doorstep_runtimes.numpy_math import cast, erf
from doorstep_runtimes.numpy_operators import OPERATORS, bind

RANDOM = np.random.default_rng(11)
OPSET = 20  # the first with Gelu; the other operators here are those of 18
TYPES = {"bool": TensorProto.BOOL, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT,
         "int8": TensorProto.INT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64}  # fmt: skip


def floats(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return RANDOM.uniform(0.1, 3, shape).astype(np.float32)


def whole(*values: Any) -> Array:
    return np.array(values, np.int64)


def scalar(value: Any, dtype: str = "int64") -> Array:
    return np.array(value, dtype)


def bools(*shape: int) -> Array:
    return RANDOM.random(shape) > 0.5


def odd() -> Array:
    return np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5, 0.5], np.float32)


IDS = whole([3, 0, 2], [-1, 1, 1])
GATES = {"LSTM": 4, "GRU": 3}


def recurrent(
    op: str, directions: int, has_bias: bool = True, lengths: Array | None = None, states: int = 0
) -> list[Array | None]:
    """Return the inputs of a recurrent layer: sequence 5, batch 3, inputs 4, hidden 6."""
    gates = 6 * GATES[op]
    bias = floats(directions, 2 * gates) if has_bias else None
    first = [floats(directions, 3, 6) for _ in range(states)]
    return [floats(5, 3, 4), floats(directions, gates, 4), floats(directions, gates, 6), bias, lengths, *first]


LENGTHS = np.array([5, 2, 3], np.int32)
BOTH = {"hidden_size": 6, "direction": "bidirectional"}
CASES: list[tuple[str, Sequence[Array | None], dict[str, Any]]] = [
    *[(op, [floats(2, 3, 4)], {}) for op in (
        "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Sigmoid", "Sign", "Sin", "Tanh",
    )],
    *[(op, [positive(2, 3)], {}) for op in ("Log", "Reciprocal", "Sqrt", "Round")],
    *[(op, [odd()], {}) for op in ("IsInf", "IsNaN", "Round", "Erf", "Gelu", "Tanh", "Sigmoid", "Relu")],
    ("Not", [bools(3, 4)], {}),
    *[(op, [floats(2, 1, 4), positive(3, 1)], {}) for op in (
        "Add", "Sub", "Mul", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal",
    )],
    *[(op, [whole(7, -7, 8, -8), whole(2, 2, -3, -3)], {}) for op in ("Add", "Div", "Mul", "Sub", "Equal", "Mod")],
    ("Mod", [whole(7, -7, 8, -8), whole(2, 2, -3, -3)], {"fmod": 1}),
    ("Mod", [floats(4), positive(4)], {"fmod": 1}),
    *[(op, [bools(2, 1, 4), bools(3, 1)], {}) for op in ("And", "Or", "Xor")],
    *[("Pow", [positive(2, 3), scalar(power, "float32")], {}) for power in (0.5, 2, 3, -1.5)],
    ("Pow", [floats(2, 3), scalar(3)], {}),
    ("Pow", [floats(1), np.full((2, 1), 2, np.float32)], {}),
    ("Pow", [positive(2, 3), floats(2, 3)], {}),
    ("Where", [bools(2, 1, 4), floats(3, 1), floats(1)], {}),
    *[(op, [floats(2, 3), floats(3), floats(2, 1)], {}) for op in ("Max", "Min")],
    ("Max", [floats(2, 3)], {}),
    *[("Clip", [floats(3, 4), low, high], {}) for low in (None, scalar(-0.2, "float32"))
      for high in (None, scalar(0.3, "float32"))],
    *[("Cast", [array], {"to": to}) for to in TYPES for array in (positive(3, 4), whole(0, 1, -5, 100), bools(4))],
    ("Cast", [floats(200, 100).astype(np.float16)], {"to": "float32"}),
    ("Gelu", [floats(3, 40000)], {"approximate": "none"}),
    ("Gelu", [floats(3, 40)], {"approximate": "tanh"}),
    *[("Softmax", [floats(2, 3, 4)], {"axis": axis}) for axis in (-1, 0, 1)],
    ("Softmax", [np.array([[-np.inf, 0, 1], [-3e38, -3e38, 3e38]], np.float32)], {}),
    *[("LayerNormalization", [floats(2, 3, 4), floats(4), bias], {"epsilon": 1e-3}) for bias in (None, floats(4))],
    ("LayerNormalization", [floats(2, 3, 4), floats(3, 4), floats(3, 4)], {"axis": 1}),
    *[("MatMul", [floats(*one), floats(*other)], {}) for one, other in (
        ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 2, 3, 4), (2, 4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)),
        ((4,), (4,)),
    )],
    *[("Gemm", [floats(*((4, 3) if one else (3, 4))), floats(*((5, 4) if other else (4, 5))), floats(5)],
       {"transA": one, "transB": other, "alpha": 0.5, "beta": 2.0}) for one in (0, 1) for other in (0, 1)],
    ("Gemm", [floats(3, 4), floats(4, 5)], {}),
    *[(op, [positive(2, 3, 4), axes], {"keepdims": kept}) for op in (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2",
    ) for axes in (None, whole(-1), whole(0, 2)) for kept in (0, 1)],
    ("ReduceSum", [positive(2, 3)], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [whole([1, 2], [3, 4]).astype(np.int32), whole(1)], {}),
    ("Reshape", [floats(2, 3, 4), whole(0, -1)], {}),
    ("Reshape", [floats(0, 3), whole(3, 0)], {"allowzero": 1}),
    ("Reshape", [floats(1), whole()], {}),
    ("Transpose", [floats(2, 3, 4)], {}),
    ("Transpose", [floats(2, 3, 4)], {"perm": [1, 0, 2]}),
    *[("Concat", [floats(2, 3), floats(2, 3), floats(2, 3)], {"axis": axis}) for axis in (0, 1, -1)],
    ("Split", [floats(2, 7), whole(3, 4)], {"axis": 1}),
    ("Split", [floats(7, 2), None], {"num_outputs": 3}),
    ("Split", [floats(6, 2)], {"num_outputs": 2}),
    ("Slice", [floats(5, 6), whole(1, -3), whole(4, 1000)], {}),
    ("Slice", [floats(5, 6), whole(-1), whole(-1000), whole(1), whole(-2)], {}),
    ("Slice", [floats(5, 6), whole(4), whole(0), whole(-2), whole(-1)], {}),
    ("Pad", [floats(2, 3, 4), whole(0, 1, 2, 0, 3, 0)], {}),
    ("Pad", [floats(2, 3), whole(1, 0, 0, 2), scalar(0.5, "float32")], {}),
    ("Pad", [whole([1, 2], [3, 4]), whole(2, 1), None, whole(-1)], {}),
    ("Pad", [floats(2, 0), whole(0, 1, 0, 1)], {}),
    ("Squeeze", [floats(1, 3, 1), whole(0)], {}),
    ("Squeeze", [floats(1, 3, 1)], {}),
    ("Unsqueeze", [floats(3, 4), whole(0, -1)], {}),
    *[("Flatten", [floats(2, 3, 4)], {"axis": axis}) for axis in (0, 1, 2, -1)],
    ("Expand", [floats(3, 1), whole(2, 1, 4)], {}),
    ("Expand", [floats(2, 3, 4), whole(3, 1)], {}),
    ("Tile", [floats(2, 3), whole(2, 2)], {}),
    ("Shape", [floats(2, 3, 4)], {}),
    ("Shape", [floats(2, 3, 4)], {"start": 1, "end": -1}),
    ("Shape", [floats(2, 3, 4)], {"start": -2}),
    ("Range", [scalar(2), scalar(11), scalar(3)], {}),
    ("Range", [scalar(5), scalar(-1), scalar(-2)], {}),
    ("Range", [scalar(0.5, "float32"), scalar(2, "float32"), scalar(0.4, "float32")], {}),
    ("Range", [scalar(5), scalar(1), scalar(1)], {}),
    ("ConstantOfShape", [whole(2, 3)], {}),
    ("ConstantOfShape", [whole(2, 3)], {"value": 7, "dtype": "int64"}),
    ("ConstantOfShape", [whole(2)], {"value": 1, "dtype": "bool"}),
    *[("Gather", [floats(4, 5), IDS], {"axis": axis}) for axis in (0, 1)],
    ("Gather", [floats(4, 5), scalar(-1)], {}),
    ("GatherElements", [floats(4, 3), IDS], {}),
    ("GatherElements", [floats(4, 5), np.abs(IDS)], {"axis": 1}),
    ("GatherND", [floats(3, 4, 5), whole([0, 1], [2, -1])], {}),
    ("GatherND", [floats(2, 4, 5), whole([[1], [2], [0]], [[0], [3], [-1]])], {"batch_dims": 1}),
    *[("CumSum", [floats(3, 4), scalar(axis)], {"exclusive": own, "reverse": back}) for axis in (0, -1)
      for own in (0, 1) for back in (0, 1)],
    ("CumSum", [whole([1, 2], [3, 4]).astype(np.int32), scalar(1)], {}),
    *[("ArgMax", [floats(3, 4)], {"axis": axis, "keepdims": kept}) for axis in (0, -1) for kept in (0, 1)],
    ("DequantizeLinear", [np.array([[-128, 127], [3, 4]], np.int8), positive(2), None], {"axis": 0}),
    ("DequantizeLinear", [np.array([[-128, 127], [3, 4]], np.int8), positive(2), np.array([1, -2], np.int8)], {}),
    ("DequantizeLinear", [np.array([[-128, 127], [3, 4]], np.int8), scalar(0.1, "float32")], {}),
    ("Conv", [floats(2, 4, 9), floats(6, 4, 3), floats(6)], {"pads": [1, 1]}),
    ("Conv", [floats(2, 4, 9), floats(6, 2, 3)], {"group": 2, "strides": [2], "dilations": [2], "pads": [2, 1]}),
    ("Conv", [floats(1, 4, 9), floats(4, 1, 3), floats(4)], {"group": 4, "kernel_shape": [3]}),
    ("Conv", [floats(2, 3, 6, 7), floats(4, 3, 3, 2), floats(4)], {"strides": [1, 2], "pads": [1, 0, 1, 1]}),
    ("MaxPool", [floats(2, 3, 9)], {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ("MaxPool", [floats(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    *[("LSTM", recurrent("LSTM", 1, **more), {"hidden_size": 6, "direction": direction})
      for direction in ("forward", "reverse") for more in ({}, {"has_bias": False}, {"lengths": LENGTHS})],
    ("LSTM", recurrent("LSTM", 2, lengths=LENGTHS, states=2), BOTH),
    *[("GRU", recurrent("GRU", 1, **more), {"hidden_size": 6, "linear_before_reset": linear, "direction": direction})
      for linear in (0, 1) for direction in ("forward", "reverse") for more in ({}, {"has_bias": False})],
    ("GRU", recurrent("GRU", 2, lengths=LENGTHS, states=1), {**BOTH, "linear_before_reset": 1}),
]  # fmt: skip
OUTPUTS = {"LSTM": 3, "GRU": 2}


@functools.lru_cache(maxsize=512)
def reference(
    op: str, inputs: tuple[tuple[int, int] | None, ...], attributes: tuple[tuple[str, Any], ...], outputs: int
) -> ort.InferenceSession:
    """Return a model of one node; `inputs` are (ONNX type, rank)."""
    names = [f"x{place}" if one else "" for place, one in enumerate(inputs)]
    made = [f"y{place}" for place in range(outputs)]
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in attributes}
    if op == "Cast":
        settings["to"] = TYPES[settings["to"]]
    if op == "ConstantOfShape" and settings:
        settings = {"value": helper.make_tensor("v", TYPES[settings["dtype"]], [1], [settings["value"]])}
    declared = [helper.make_tensor_value_info(name, one[0], [None] * one[1]) for name, one in zip(names, inputs) if one]
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **settings)], "one", declared, [onnx_output(name) for name in made]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def onnx_output(name: str) -> Any:
    return helper.make_empty_tensor_value_info(name)


def answers(op: str, inputs: Sequence[Array | None], attributes: dict[str, Any], outputs: int = 1) -> tuple[Any, Any]:
    """Return what ONNX Runtime and what NumPy computes."""
    while inputs[-1] is None:  # ONNX Runtime crashes on a last input that is left out and named ""
        inputs = inputs[:-1]
    kinds = tuple(None if x is None else (helper.np_dtype_to_tensor_dtype(x.dtype), x.ndim) for x in inputs)
    frozen = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in attributes.items())
    feeds = {f"x{place}": x for place, x in enumerate(inputs) if x is not None}
    expected = reference(op, kinds, frozen, outputs).run(None, feeds)
    with np.errstate(all="ignore"):
        got = bind(op, attributes, len(inputs), outputs)(*inputs)
    return expected, list(got) if isinstance(got, (list, tuple)) else [np.asarray(got)]


def check(op: str, inputs: Sequence[Array | None], attributes: dict[str, Any], outputs: int = 1) -> None:
    expected, got = answers(op, inputs, attributes, outputs)
    assert len(got) == len(expected)
    for one, other in zip(expected, got):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "op, inputs, attributes", CASES, ids=[f"{op}-{place}" for place, (op, _, _) in enumerate(CASES)]
)
def test_an_operator_answers_like_onnx_runtime(op: str, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    parts = attributes.get("num_outputs", 2) if op == "Split" else 1
    kept = [None if x is None else x.copy() for x in inputs]
    check(op, inputs, attributes, OUTPUTS.get(op, parts))
    assert all(x is None or np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(inputs, kept))


def test_every_operator_is_compared() -> None:
    assert {op for op, _, _ in CASES} == OPERATORS.keys()


SHAPES = arrays.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=5)


@given(SHAPES)
@settings(max_examples=60, deadline=None)
def test_shapes_broadcast_as_onnx_says(shapes: Any) -> None:
    one, other, third = (floats(*shape) for shape in shapes.input_shapes)
    check("Add", [one, other], {})
    check("Where", [np.asarray(one > 0), other, third], {})
    check("Max", [one, other, third], {})


@given(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6), st.data())
@settings(max_examples=60, deadline=None)
def test_slices_are_cut_as_onnx_says(shape: tuple[int, ...], data: st.DataObject) -> None:
    bound = st.integers(-9, 9)
    per_axis = [st.tuples(bound, bound, st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in shape]
    starts, ends, steps = zip(*[data.draw(axis) for axis in per_axis])
    check("Slice", [floats(*shape), whole(*starts), whole(*ends), whole(*range(len(shape))), whole(*steps)], {})


@given(arrays.array_shapes(min_dims=2, max_dims=4, max_side=5), st.integers(1, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_products_of_many_shapes(shape: tuple[int, ...], columns: int, is_batched: bool) -> None:
    batch = shape[:-2] if is_batched else ()
    check("MatMul", [floats(*shape), floats(*batch, shape[-1], columns)], {})


def test_erf_is_right_to_a_millionth() -> None:
    x = np.concatenate([np.linspace(-6, 6, 200_001), [1e-30, -1e-30, 100, -100]]).astype(np.float32)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - exact).max() < 1e-6


def test_every_half_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for x in (halves, halves[np.isfinite(halves)].repeat(3)):
        np.testing.assert_array_equal(cast(x, to="float32"), x.astype(np.float32))
