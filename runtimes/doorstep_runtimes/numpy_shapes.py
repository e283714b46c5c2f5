"""Shapes, indices and reductions for the NumPy runtime; semantics as in `numpy_math`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from doorstep.tensors import Array

_MAX_ELEMENTS = 1 << 28  # of an array made from numbers in the file alone


def reshape(x: Array, shape: Array, *, allowzero: int) -> Array:
    wanted = _ints(shape)
    if not allowzero:
        wanted = [x.shape[place] if length == 0 else length for place, length in enumerate(wanted)]
    return x.reshape(wanted)


def transpose(x: Array, *, perm: tuple[int, ...]) -> Array:
    return x.transpose(perm or None)


def concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis=axis)


def split(x: Array, sizes: Array | None = None, *, axis: int, num_outputs: int) -> list[Array]:
    length = x.shape[axis]
    if sizes is None:
        size = -(-length // num_outputs)
        ends = list(range(size, length, size))
    else:
        if sum(_ints(sizes)) != length or min(_ints(sizes), default=0) < 0:
            raise ValueError(f"parts of {_ints(sizes)} do not make up an axis of {length}")
        ends = np.cumsum(_ints(sizes)).tolist()[:-1]
    return np.split(x, ends, axis=axis)


def slice_(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    first, last = _ints(starts), _ints(ends)
    places = range(len(first)) if axes is None else _ints(axes)
    strides = [1] * len(first) if steps is None else _ints(steps)
    index = [slice(None)] * x.ndim
    for place, start, end, step in zip(places, first, last, strides, strict=True):
        index[place] = _clamped(start, end, step, x.shape[place])
    return x[tuple(index)]


def pad(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str) -> Array:
    """Put `value` (0 where it is left out) around `x`; `mode` is `constant`, the only one known here."""
    places = range(x.ndim) if axes is None else [place % x.ndim for place in _ints(axes)]
    widths, around = _ints(pads), [(0, 0)] * x.ndim
    for place, before, after in zip(places, widths[: len(places)], widths[len(places) :], strict=True):
        around[place] = (before, after)
    bound([length + before + after for length, (before, after) in zip(x.shape, around, strict=True)])
    return np.pad(x, around, constant_values=0 if value is None else value.item())


def squeeze(x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, axis=None if axes is None else tuple(_ints(axes)))


def unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(_ints(axes)))


def flatten(x: Array, *, axis: int) -> Array:
    rows = math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis])
    return x.reshape(rows, x.size // rows if rows else 0)


def expand(x: Array, shape: Array) -> Array:
    wanted = _ints(shape)
    own = (1,) * (len(wanted) - x.ndim) + x.shape
    wanted = [1] * (x.ndim - len(wanted)) + wanted
    lengths = [b if a == 1 else a if b == 1 else b for a, b in zip(own, wanted, strict=True)]
    bound(lengths)
    return np.broadcast_to(x, lengths)


def tile(x: Array, repeats: Array) -> Array:
    bound([x.size, *_ints(repeats)])
    return np.tile(x, _ints(repeats))


def shape_of(x: Array, *, start: int, end: int) -> Array:
    return np.array(x.shape[start:end], np.int64)


def range_(start: Array, limit: Array, delta: Array) -> Array:
    first, step = start.item(), delta.item()
    count = max(0, math.ceil((limit.item() - first) / step))
    bound([count])
    return (first + np.arange(count) * step).astype(start.dtype)


def constant_of_shape(shape: Array, *, value: float, dtype: str) -> Array:
    bound(_ints(shape))
    return np.full(_ints(shape), value, dtype)


def gather(x: Array, indices: Array, *, axis: int) -> Array:
    return x.take(indices.astype(np.intp, copy=False), axis=axis)


def gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    kept = [slice(None) if place == axis % x.ndim else slice(n) for place, n in enumerate(indices.shape)]
    return np.take_along_axis(x[tuple(kept)], indices.astype(np.intp, copy=False), axis)


def gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Array:
    grid = np.ogrid[tuple(slice(length) for length in x.shape[:batch_dims])] if batch_dims else []
    rank = indices.ndim - 1
    batch = [axis.reshape(*axis.shape, *[1] * (rank - batch_dims)) for axis in grid]
    return x[(*batch, *np.moveaxis(indices.astype(np.intp, copy=False), -1, 0))]


def reduce_by(function: Callable[..., Any]) -> Callable[..., Array]:
    """Return an ONNX reduction over the axes in its second input."""

    def reduce(x: Array, axes: Array | None = None, *, keepdims: int, noop_with_empty_axes: int) -> Array:
        places = None if axes is None or axes.size == 0 else tuple(_ints(axes))
        if places is None and noop_with_empty_axes:
            return x
        y: Array = function(x, axis=places, keepdims=bool(keepdims))
        return y.astype(x.dtype, copy=False)

    return reduce


def l2(x: Array, **axes: Any) -> Any:
    return np.sqrt(np.sum(np.square(x), **axes))


def argmax(x: Array, *, axis: int, keepdims: int) -> Array:
    y = np.argmax(x, axis=axis).astype(np.int64)
    return np.expand_dims(y, axis) if keepdims else y


def bound(lengths: Sequence[int]) -> None:
    """Refuse shapes that only numbers in a file ask for and no device could hold."""
    if math.prod(lengths) > _MAX_ELEMENTS:
        raise ValueError(f"expected at most {_MAX_ELEMENTS} elements, got {math.prod(lengths)}")


def _clamped(start: int, end: int, step: int, length: int) -> slice:
    """Return a slice after ONNX's rule; going backwards, a start before the first element means that element."""
    start, end = start + length * (start < 0), end + length * (end < 0)
    if step > 0:
        return slice(min(max(start, 0), length), min(max(end, 0), length), step)
    end = min(max(end, -1), length - 1)
    return slice(min(max(start, 0), length - 1), None if end == -1 else end, step)


def _ints(values: Array) -> list[int]:
    return [int(value) for value in values.reshape(-1).tolist()]
