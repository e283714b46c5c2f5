"""Arithmetic for the NumPy runtime. Semantics: the ONNX operator specification, https://onnx.ai/onnx/operators/.

Arrays that a function made itself are changed in place; arrays it was given never are.
"""

import math
from collections.abc import Callable
from functools import reduce

import numpy as np

from doorstep.tensors import Array

_BLOCK = 16384  # elements worked on at a time: the temporaries stay in the cache
_WIDE_BLOCK = 65536  # the same where there are few temporaries
_INFINITE_HALF = 0x7C00
# x·P(x²)/Q(x²) on [-4, 4]: Eigen's float32 erf, absolute error below 4e-7.
# https://gitlab.com/libeigen/eigen/-/blob/3.4/unsupported/Eigen/src/SpecialFunctions/SpecialFunctionsImpl.h
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_Q = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip


def cast(x: Array, *, to: str) -> Array:
    if x.dtype == np.float16 and to == "float32" and x.size >= _BLOCK:
        return _widen(x)
    return x.astype(to)


def dequantize(x: Array, scale: Array, zero: Array | None = None, *, axis: int) -> Array:
    """`(x - zero) * scale`, one scale for all or one a place of `axis`."""
    shape = [1] * x.ndim
    if scale.ndim:
        shape[axis] = -1
    y = x.astype(scale.dtype)
    if zero is not None:
        y -= zero.astype(scale.dtype).reshape(shape)
    y *= scale.reshape(shape)
    return y


def matmul(a: Array, b: Array) -> Array:
    if b.ndim == 2 and a.ndim > 2:  # one large product instead of many small ones
        flat = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) @ b
        return flat.reshape(*a.shape[:-1], b.shape[1])
    return a @ b


def gemm(
    a: Array, b: Array, c: Array | None = None, *, alpha: float, beta: float,
    transA: int, transB: int,  # noqa: N803 -- the specification's names
) -> Array:  # fmt: skip
    y = (a.T if transA else a) @ (b.T if transB else b)
    if alpha != 1.0:
        y *= y.dtype.type(alpha)
    if c is not None:
        y += c if beta == 1.0 else c * c.dtype.type(beta)
    return y


def divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.abs(b)  # integers are cut towards zero, as in C
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def power(a: Array, b: Array) -> Array:
    exponent = float(b.reshape(-1)[0]) if b.size == 1 and b.ndim <= a.ndim else 0.0
    if exponent in (2.0, 3.0):  # pow takes twenty times as long
        square = a * a
        return square if exponent == 2.0 else square * a
    return np.power(a, b).astype(a.dtype, copy=False)


def modulo(a: Array, b: Array, *, fmod: int) -> Array:
    return np.fmod(a, b) if fmod else np.mod(a, b)


def fold(function: Callable[[Array, Array], Array], *arrays: Array) -> Array:
    return reduce(function, arrays)


def erf(x: Array) -> Array:
    return _blockwise(_erf_block, x)


def gelu(x: Array, *, approximate: str) -> Array:
    return _blockwise(_gelu_tanh_block if approximate == "tanh" else _gelu_block, x)


def sigmoid(x: Array) -> Array:
    y = np.exp(-x)
    y += 1
    return np.reciprocal(y)


def softmax(x: Array, *, axis: int) -> Array:
    y = x - x.max(axis=axis, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def layer_normalization(
    x: Array, scale: Array, bias: Array | None = None, *, axis: int, epsilon: float, stash_type: int
) -> Array:
    axes = tuple(range(axis % x.ndim, x.ndim))
    y = x - x.mean(axis=axes, keepdims=True)
    deviation = np.square(y).mean(axis=axes, keepdims=True)
    deviation += deviation.dtype.type(epsilon)
    y /= np.sqrt(deviation)
    y *= scale
    if bias is not None:
        y += bias
    return y


def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    y = x if low is None else np.maximum(x, low)
    return y if high is None else np.minimum(y, high)


def cumsum(x: Array, axis: Array, *, exclusive: int, reverse: int) -> Array:
    place = int(axis)
    y = np.flip(x, place) if reverse else x
    y = np.cumsum(y, axis=place, dtype=x.dtype) - (y if exclusive else 0)
    return np.flip(y, place) if reverse else y


def _blockwise(function: Callable[[Array], Array], x: Array) -> Array:
    """Apply an element-wise function piece by piece."""
    source = np.ascontiguousarray(x).reshape(-1)
    target = np.empty(source.shape, x.dtype)
    for start in range(0, source.size, _BLOCK):
        target[start : start + _BLOCK] = function(source[start : start + _BLOCK])
    return target.reshape(x.shape)


def _erf_block(x: Array) -> Array:
    z = np.clip(x, -4, 4)
    square = z * z
    z *= _polynomial(_ERF_P, square)
    z /= _polynomial(_ERF_Q, square)
    return z


def _gelu_block(x: Array) -> Array:
    y = _erf_block(x * x.dtype.type(math.sqrt(0.5)))
    y += 1
    y *= x
    y *= x.dtype.type(0.5)
    return y


def _gelu_tanh_block(x: Array) -> Array:
    y = x * x
    y *= x.dtype.type(0.044715)
    y += 1
    y *= x
    y *= x.dtype.type(math.sqrt(2 / math.pi))
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= x.dtype.type(0.5)
    return y


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    y = x * x.dtype.type(coefficients[0])
    for coefficient in coefficients[1:-1]:
        y += x.dtype.type(coefficient)
        y *= x
    y += x.dtype.type(coefficients[-1])
    return y


def _widen(x: Array) -> Array:
    """Widen fp16 by moving its bits, in half the time of `astype`: sign and exponent shift, 2¹¹² mends the bias."""
    source = np.ascontiguousarray(x).reshape(-1)
    target = np.empty(source.shape, np.float32)
    for start in range(0, source.size, _WIDE_BLOCK):
        halves, y = source[start : start + _WIDE_BLOCK], target[start : start + _WIDE_BLOCK]
        bits = y.view(np.int32)
        np.left_shift(halves.view(np.int16), 13, out=bits, dtype=np.int32)
        bits &= np.int32(~0x70000000)
        y *= np.float32(2.0**112)
        if (halves.view(np.int16) & 0x7FFF).max() >= _INFINITE_HALF:  # infinities and NaN keep their exponent
            y[...] = halves
    return target.reshape(x.shape)
