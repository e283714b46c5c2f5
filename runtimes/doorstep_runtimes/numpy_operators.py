"""The operators the NumPy runtime knows, after the ONNX operator specification of opset 18 (Gelu: 20).

https://onnx.ai/onnx/operators/. Types stand in attributes by name (`float32`), where ONNX has numbers.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import EngineError
from doorstep_runtimes import numpy_layers as layers
from doorstep_runtimes import numpy_math as maths
from doorstep_runtimes import numpy_shapes as shapes

_DTYPES = frozenset(["bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"])
_DIRECTIONS = frozenset(["forward", "reverse", "bidirectional"])
_ANY = 1 << 16
_TO_THE_END = (1 << 63) - 1


class Operator(NamedTuple):
    """How an operator is computed.

    Attributes:
        function: takes the inputs in order, None for one left out, and the attributes as keywords.
        least, most: how many inputs it takes.
        attributes: name to the default, or to a type where the attribute must be given.
        outputs: how many there may be.
    """

    function: Callable[..., Any]
    least: int
    most: int
    attributes: Mapping[str, Any] = {}
    outputs: int = 1


def bind(op: str, attributes: Mapping[str, Any], inputs: int, outputs: int) -> Callable[..., Any]:
    """Return the function of one node.

    Raises:
        EngineError: an unknown operator or attribute, a wrong type, or a wrong number of inputs or outputs.
    """
    known = OPERATORS.get(op)
    if known is None:
        raise EngineError(f"the NumPy runtime has no operator {op[:80]!r}; convert for another runtime")
    if not known.least <= inputs <= known.most or not 1 <= outputs <= known.outputs:
        raise EngineError(f"{op}: {inputs} inputs and {outputs} outputs are none the NumPy runtime knows")
    if unknown := sorted(attributes.keys() - known.attributes.keys()):
        raise EngineError(f"{op}: the NumPy runtime knows no attribute {unknown[0][:80]!r}")
    values = {name: _value(op, name, default, attributes) for name, default in known.attributes.items()}
    return partial(known.function, **values) if values else known.function


def _value(op: str, name: str, default: Any, attributes: Mapping[str, Any]) -> Any:
    kind = default if isinstance(default, type) else type(default)
    if name not in attributes:
        if default is kind:
            raise EngineError(f"{op}: attribute {name} is missing")
        return default
    value = attributes[name]
    if kind is tuple and type(value) is list and all(type(item) is int for item in value):
        return tuple(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    allowed = _WORDS.get(name)
    if type(value) is not kind or kind is tuple or (allowed is not None and value not in allowed):
        raise EngineError(f"{op}: attribute {name} cannot be {value!r:.80}")
    return value


_WORDS = {"to": _DTYPES, "dtype": _DTYPES, "direction": _DIRECTIONS, "approximate": frozenset(["none", "tanh"])}
_REDUCE = {"keepdims": 1, "noop_with_empty_axes": 0}
_WINDOW: dict[str, Any] = {"pads": (), "strides": (), "dilations": ()}
_RECURRENT = {"hidden_size": int, "direction": "forward"}


def _one(function: Callable[..., Any]) -> Operator:
    return Operator(function, 1, 1)


def _two(function: Callable[..., Any], **attributes: Any) -> Operator:
    return Operator(function, 2, 2, attributes)


def _many(function: Callable[..., Any]) -> Operator:
    return Operator(lambda *arrays: reduce(function, arrays), 1, _ANY)


def _reduction(function: Callable[..., Any]) -> Operator:
    return Operator(shapes.reduce_by(function), 1, 2, _REDUCE)


def _identity(x: Any) -> Any:
    return x


def _l2(x: Any, **axes: Any) -> Any:
    return np.sqrt(np.sum(np.square(x), **axes))


OPERATORS: dict[str, Operator] = {
    **{name: _one(function) for name, function in {
        "Abs": np.abs, "Ceil": np.ceil, "Cos": np.cos, "Erf": maths.erf, "Exp": np.exp, "Floor": np.floor,
        "Identity": _identity, "IsInf": np.isinf, "IsNaN": np.isnan, "Log": np.log, "Neg": np.negative,
        "Not": np.logical_not, "Reciprocal": np.reciprocal, "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
        "Round": np.rint, "Sigmoid": maths.sigmoid, "Sign": np.sign, "Sin": np.sin, "Sqrt": np.sqrt, "Tanh": np.tanh,
    }.items()},
    **{name: _two(function) for name, function in {
        "Add": np.add, "And": np.logical_and, "Div": maths.divide, "Equal": np.equal, "Expand": shapes.expand,
        "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
        "MatMul": maths.matmul, "Mul": np.multiply, "Or": np.logical_or, "Pow": maths.power, "Sub": np.subtract,
        "Tile": shapes.tile, "Unsqueeze": shapes.unsqueeze, "Xor": np.logical_xor,
    }.items()},
    **{name: _reduction(function) for name, function in {
        "ReduceL2": _l2, "ReduceMax": np.max, "ReduceMean": np.mean, "ReduceMin": np.min, "ReduceProd": np.prod,
        "ReduceSum": np.sum,
    }.items()},
    "ArgMax": Operator(shapes.argmax, 1, 1, {"axis": 0, "keepdims": 1}),
    "Cast": Operator(maths.cast, 1, 1, {"to": str}),
    "Clip": Operator(maths.clip, 1, 3),
    "Concat": Operator(shapes.concat, 1, _ANY, {"axis": int}),
    "ConstantOfShape": Operator(shapes.constant_of_shape, 1, 1, {"value": 0.0, "dtype": "float32"}),
    "Conv": Operator(layers.conv, 2, 3, {"group": 1, "kernel_shape": (), **_WINDOW}),
    "CumSum": _two(maths.cumsum, exclusive=0, reverse=0),
    "DequantizeLinear": Operator(maths.dequantize, 2, 3, {"axis": 1}),
    "Flatten": Operator(shapes.flatten, 1, 1, {"axis": 1}),
    "GRU": Operator(layers.gru, 3, 6, {**_RECURRENT, "linear_before_reset": 0}, 2),
    "Gather": _two(shapes.gather, axis=0),
    "GatherElements": _two(shapes.gather_elements, axis=0),
    "GatherND": _two(shapes.gather_nd, batch_dims=0),
    "Gelu": Operator(maths.gelu, 1, 1, {"approximate": "none"}),
    "Gemm": Operator(maths.gemm, 2, 3, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "LSTM": Operator(layers.lstm, 3, 7, _RECURRENT, 3),
    "LayerNormalization": Operator(
        maths.layer_normalization, 2, 3, {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    ),
    "Max": _many(np.maximum),
    "MaxPool": Operator(layers.max_pool, 1, 1, {"kernel_shape": tuple, **_WINDOW}),
    "Min": _many(np.minimum),
    "Mod": _two(maths.modulo, fmod=0),
    "Range": Operator(shapes.range_, 3, 3),
    "Reshape": _two(shapes.reshape, allowzero=0),
    "Shape": Operator(shapes.shape_of, 1, 1, {"start": 0, "end": _TO_THE_END}),
    "Slice": Operator(shapes.slice_, 3, 5),
    "Softmax": Operator(maths.softmax, 1, 1, {"axis": -1}),
    "Split": Operator(shapes.split, 1, 2, {"axis": 0, "num_outputs": 0}, _ANY),
    "Squeeze": Operator(shapes.squeeze, 1, 2),
    "Transpose": Operator(shapes.transpose, 1, 1, {"perm": ()}),
    "Where": Operator(np.where, 3, 3),
}  # fmt: skip
