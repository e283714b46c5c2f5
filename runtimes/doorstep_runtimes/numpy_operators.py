"""The operators the NumPy runtime knows, after the ONNX operator specification of opset 18 (Gelu: 20).

https://onnx.ai/onnx/operators/. Types stand in attributes by name (`float32`), where ONNX has numbers.
"""

from collections.abc import Callable, Mapping
from functools import partial
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


_WORDS = {"to": _DTYPES, "dtype": _DTYPES, "direction": _DIRECTIONS, "approximate": frozenset(["none", "tanh"]),
          "mode": frozenset(["constant"])}  # fmt: skip
_REDUCE = {"keepdims": 1, "noop_with_empty_axes": 0}
_WINDOW: dict[str, Any] = {"pads": (), "strides": (), "dilations": ()}
_RECURRENT = {"hidden_size": int, "direction": "forward"}


_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": np.abs, "Ceil": np.ceil, "Cos": np.cos, "Erf": maths.erf, "Exp": np.exp, "Floor": np.floor,
    "Identity": lambda x: x, "IsInf": np.isinf, "IsNaN": np.isnan, "Log": np.log, "Neg": np.negative,
    "Not": np.logical_not, "Reciprocal": np.reciprocal, "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Round": np.rint, "Sigmoid": maths.sigmoid, "Sign": np.sign, "Sin": np.sin, "Sqrt": np.sqrt, "Tanh": np.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": np.add, "And": np.logical_and, "Div": maths.divide, "Equal": np.equal, "Expand": shapes.expand,
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
    "MatMul": maths.matmul, "Mul": np.multiply, "Or": np.logical_or, "Pow": maths.power, "Sub": np.subtract,
    "Tile": shapes.tile, "Unsqueeze": shapes.unsqueeze, "Xor": np.logical_xor,
}  # fmt: skip
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL2": shapes.l2, "ReduceMax": np.max, "ReduceMean": np.mean, "ReduceMin": np.min, "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}  # fmt: skip

OPERATORS: dict[str, Operator] = {
    **{name: Operator(function, 1, 1) for name, function in _UNARY.items()},
    **{name: Operator(function, 2, 2) for name, function in _BINARY.items()},
    **{name: Operator(shapes.reduce_by(function), 1, 2, _REDUCE) for name, function in _REDUCTIONS.items()},
    "ArgMax": Operator(shapes.argmax, 1, 1, {"axis": 0, "keepdims": 1}),
    "Cast": Operator(maths.cast, 1, 1, {"to": str}),
    "Clip": Operator(maths.clip, 1, 3),
    "Concat": Operator(shapes.concat, 1, _ANY, {"axis": int}),
    "ConstantOfShape": Operator(shapes.constant_of_shape, 1, 1, {"value": 0.0, "dtype": "float32"}),
    "Conv": Operator(layers.conv, 2, 3, {"group": 1, "kernel_shape": (), **_WINDOW}),
    "CumSum": Operator(maths.cumsum, 2, 2, {"exclusive": 0, "reverse": 0}),
    "DequantizeLinear": Operator(maths.dequantize, 2, 3, {"axis": 1}),
    "Flatten": Operator(shapes.flatten, 1, 1, {"axis": 1}),
    "GRU": Operator(layers.gru, 3, 6, {**_RECURRENT, "linear_before_reset": 0}, 2),
    "Gather": Operator(shapes.gather, 2, 2, {"axis": 0}),
    "GatherElements": Operator(shapes.gather_elements, 2, 2, {"axis": 0}),
    "GatherND": Operator(shapes.gather_nd, 2, 2, {"batch_dims": 0}),
    "Gelu": Operator(maths.gelu, 1, 1, {"approximate": "none"}),
    "Gemm": Operator(maths.gemm, 2, 3, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "LSTM": Operator(layers.lstm, 3, 7, _RECURRENT, 3),
    "LayerNormalization": Operator(maths.layer_normalization, 2, 3, {"axis": -1, "epsilon": 1e-5, "stash_type": 1}),
    "Max": Operator(partial(maths.fold, np.maximum), 1, _ANY),
    "MaxPool": Operator(layers.max_pool, 1, 1, {"kernel_shape": tuple, **_WINDOW}),
    "Min": Operator(partial(maths.fold, np.minimum), 1, _ANY),
    "Mod": Operator(maths.modulo, 2, 2, {"fmod": 0}),
    "Pad": Operator(shapes.pad, 2, 4, {"mode": "constant"}),
    "Range": Operator(shapes.range_, 3, 3),
    "Reshape": Operator(shapes.reshape, 2, 2, {"allowzero": 0}),
    "Shape": Operator(shapes.shape_of, 1, 1, {"start": 0, "end": _TO_THE_END}),
    "Slice": Operator(shapes.slice_, 3, 5),
    "Softmax": Operator(maths.softmax, 1, 1, {"axis": -1}),
    "Split": Operator(shapes.split, 1, 2, {"axis": 0, "num_outputs": 0}, _ANY),
    "Squeeze": Operator(shapes.squeeze, 1, 2),
    "Transpose": Operator(shapes.transpose, 1, 1, {"perm": ()}),
    "Where": Operator(np.where, 3, 3),
}
