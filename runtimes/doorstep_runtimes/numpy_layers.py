"""Convolution, pooling and recurrent layers for the NumPy runtime; semantics as in `numpy_math`."""

import math

import numpy as np

from doorstep.tensors import Array
from doorstep_runtimes.numpy_math import sigmoid
from doorstep_runtimes.numpy_shapes import bound


def conv(
    x: Array, weight: Array, bias: Array | None = None, *, group: int,
    kernel_shape: tuple[int, ...], pads: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
) -> Array:  # fmt: skip
    """Convolve [batch, channels, *space] with weight [maps, channels / group, *kernel]."""
    if kernel_shape and kernel_shape != weight.shape[2:]:
        raise ValueError(f"its weight {list(weight.shape)} is no kernel of {kernel_shape}")
    windows = _windows(x, weight.shape[2:], pads, strides, dilations, 0)  # [batch, channels, *out, *kernel]
    rank, (batch, channels), maps = weight.ndim - 2, x.shape[:2], weight.shape[0]
    out = windows.shape[2 : 2 + rank]
    order = (1, 0, *range(2, 2 + rank), *range(2 + rank, 2 + 2 * rank))
    grouped = windows.transpose(order).reshape(group, channels // group, batch * math.prod(out), -1)
    rows = grouped.transpose(0, 2, 1, 3).reshape(group, batch * math.prod(out), -1)  # [group, places, taps]
    y = rows @ weight.reshape(group, maps // group, -1).transpose(0, 2, 1)  # [group, places, maps / group]
    if bias is not None:
        y += bias.reshape(group, 1, -1)
    y = y.reshape(group, batch, math.prod(out), maps // group).transpose(1, 0, 3, 2)
    return y.reshape(batch, maps, *out)


def max_pool(
    x: Array, *, kernel_shape: tuple[int, ...], pads: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Array:  # fmt: skip
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    windows = _windows(x, kernel_shape, pads, strides, dilations, lowest)
    return windows.max(axis=tuple(range(x.ndim, windows.ndim)))


def lstm(
    x: Array, weight: Array, recurrent: Array, bias: Array | None = None, lengths: Array | None = None,
    first_h: Array | None = None, first_c: Array | None = None, *, hidden_size: int, direction: str,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Run an LSTM over [sequence, batch, inputs]; gates in the order input, output, forget, cell."""
    ends = []
    orders = _orders(direction, x, lengths)
    ys = _zeros(x, weight, (len(orders), 4 * hidden_size), hidden_size)
    for place, order in enumerate(orders):
        gates = _inputs_part(x, order, weight[place], bias, place)  # [sequence, batch, 4·hidden]
        if bias is not None:
            gates += bias[place, 4 * hidden_size :]
        h, c = _first(first_h, place, x, hidden_size), _first(first_c, place, x, hidden_size)
        for step, gate in enumerate(gates):
            gate += h @ recurrent[place].T
            i, o, f = (sigmoid(gate[:, n * hidden_size : (n + 1) * hidden_size]) for n in range(3))
            new_c = f * c + i * np.tanh(gate[:, 3 * hidden_size :])
            new_h = o * np.tanh(new_c)
            h, c = _step(ys[:, place], order, step, lengths, (h, c), (new_h, new_c))
        ends.append((h, c))
    return ys, np.stack([h for h, _ in ends]), np.stack([c for _, c in ends])


def gru(
    x: Array, weight: Array, recurrent: Array, bias: Array | None = None, lengths: Array | None = None,
    first_h: Array | None = None, *, hidden_size: int, direction: str, linear_before_reset: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Run a GRU over [sequence, batch, inputs]; gates in the order update, reset, hidden."""
    ends, cut = [], 2 * hidden_size
    orders = _orders(direction, x, lengths)
    ys = _zeros(x, weight, (len(orders), 3 * hidden_size), hidden_size)
    for place, order in enumerate(orders):
        gates = _inputs_part(x, order, weight[place], bias, place)  # [sequence, batch, 3·hidden]
        own = np.zeros(3 * hidden_size, x.dtype) if bias is None else bias[place, 3 * hidden_size :]
        by_zr, by_h = recurrent[place, :cut].T, recurrent[place, cut:].T
        h = _first(first_h, place, x, hidden_size)
        for step, gate in enumerate(gates):
            z, r = np.split(sigmoid(gate[:, :cut] + h @ by_zr + own[:cut]), 2, axis=1)
            remembered = r * (h @ by_h + own[cut:]) if linear_before_reset else (r * h) @ by_h + own[cut:]
            new_h = np.tanh(gate[:, cut:] + remembered)
            new_h += z * (h - new_h)
            (h,) = _step(ys[:, place], order, step, lengths, (h,), (new_h,))
        ends.append(h)
    return ys, np.stack(ends)


def _windows(
    x: Array, kernel: tuple[int, ...], pads: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
    fill: float,
) -> Array:  # fmt: skip
    """Return views [batch, channels, *out, *kernel] of the padded input."""
    rank = len(kernel)
    pads, strides, dilations = pads or (0,) * 2 * rank, strides or (1,) * rank, dilations or (1,) * rank
    if not x.ndim - 2 == rank == len(strides) == len(dilations) == len(pads) // 2:
        raise ValueError(f"a kernel of {kernel} does not fit {list(x.shape)}")
    if min((*strides, *dilations, *kernel), default=1) < 1 or min(pads, default=0) < 0:
        raise ValueError(f"strides {strides}, dilations {dilations} and pads {pads} must count forwards")
    if any(pads):
        bound([length + sum(pads) for length in x.shape])
        around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        x = np.pad(x, around, constant_values=fill)
    extent = tuple((length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations))]
    return windows[tuple(steps)]


def _orders(direction: str, x: Array, lengths: Array | None) -> list[Array]:
    """Return for each direction which place of the sequence each step reads [sequence, batch]."""
    steps = np.arange(x.shape[0], dtype=np.intp)[:, None]  # [sequence, 1]
    forward = np.broadcast_to(steps, x.shape[:2])
    ends = np.full(x.shape[1], x.shape[0], np.intp) if lengths is None else lengths.astype(np.intp)
    reverse = np.where(steps < ends, ends - 1 - steps, steps)
    return {"forward": [forward], "reverse": [reverse], "bidirectional": [forward, reverse]}[direction]


def _zeros(x: Array, weight: Array, wanted: tuple[int, int], hidden_size: int) -> Array:
    """Return room for the outputs [sequence, directions, batch, hidden]; `wanted` is (directions, gates · hidden)."""
    if weight.shape != (*wanted, x.shape[2]):
        raise ValueError(f"expected weights {[*wanted, x.shape[2]]}, got {list(weight.shape)}")
    return np.zeros((x.shape[0], wanted[0], x.shape[1], hidden_size), x.dtype)


def _inputs_part(x: Array, order: Array, weight: Array, bias: Array | None, place: int) -> Array:
    """Compute what the inputs give to every gate of every step at once [sequence, batch, gates]."""
    gates = np.take_along_axis(x, order[:, :, None], axis=0) @ weight.T
    if bias is not None:
        gates += bias[place, : weight.shape[0]]
    return gates


def _first(state: Array | None, place: int, x: Array, hidden_size: int) -> Array:
    return np.zeros((x.shape[1], hidden_size), x.dtype) if state is None else state[place]


def _step(
    ys: Array, order: Array, step: int, lengths: Array | None, old: tuple[Array, ...], new: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Store a step's output [batch, hidden]; rows whose sequence has ended keep their state and put out zeros."""
    rows = np.arange(ys.shape[1])
    if lengths is None:
        ys[order[step], rows] = new[0]
        return new
    lives = (step < lengths)[:, None]
    ys[order[step], rows] = np.where(lives, new[0], 0)
    return tuple(np.where(lives, fresh, kept) for fresh, kept in zip(new, old, strict=True))
