"""From one rate to another: the polyphase filter of `scipy.signal.resample_poly`, whose values it has within 1e-5.

A windowed sinc (Kaiser, beta 5) over ten zero crossings of the lower rate on each side, evaluated only where an output
sample is wanted (Crochiere and Rabiner, "Multirate Digital Signal Processing", 1983, chapter 3).
"""

from functools import lru_cache
from math import gcd

import numpy as np

from doorstep.errors import InputError
from doorstep.tensors import Array

_CROSSINGS = 10
_BETA = 5.0
_MOST_PHASES = 50_000  # a table of one million taps, 4 MiB
_BLOCK = 1 << 20  # products held at a time


def resample(samples: Array, rate: int, wanted: int) -> Array:
    """Return float32 [samples] at `rate` as float32 at `wanted` samples a second.

    Raises:
        InputError: no ratio of whole numbers up to 50,000 leads from one rate to the other.
    """
    shared = gcd(rate, wanted)
    up, down = wanted // shared, rate // shared
    if up == down:
        return samples
    if max(up, down) > _MOST_PHASES:
        raise InputError(f"expected a usual rate such as 44100 or 48000, got {rate} for a model of {wanted}")
    table = _table(up, down)  # [phases, taps]
    taps = table.shape[1]
    padded = np.pad(samples, taps // 2)
    count = -(-len(samples) * up // down)
    found = np.empty(count, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)  # [places, taps]
    step = max(1, _BLOCK // taps)
    for start in range(0, count, step):
        places = np.arange(start, min(count, start + step), dtype=np.int64) * down
        found[start : start + step] = np.einsum("ij,ij->i", windows[places // up], table[places % up])
    return found


@lru_cache(maxsize=8)
def _table(up: int, down: int) -> Array:
    """Return the filter [phases, taps] float32: row p holds what neighbours weigh p/up behind a sample."""
    widest = max(up, down)
    reach = _CROSSINGS * widest  # in steps of 1/up samples
    taps = 2 * (reach // up) + 3
    offsets = np.arange(up)[:, None] - (np.arange(taps) - taps // 2)[None] * up  # [phases, taps]
    inside = np.abs(offsets) <= reach
    shape = np.sqrt(np.maximum(0.0, 1 - (offsets / reach) ** 2))
    taper = np.where(inside, np.i0(_BETA * shape) / np.i0(_BETA), 0.0)
    weights = np.sinc(offsets / widest) * taper
    table: Array = (weights * (up / weights.sum())).astype(np.float32)
    return table
