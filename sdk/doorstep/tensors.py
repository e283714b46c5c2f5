"""Named arrays in, named arrays out, and their declared form."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doorstep.errors import EngineError
from doorstep.record import Record

Array = np.ndarray[Any, np.dtype[Any]]  # importing numpy.typing for NDArray costs every start
Feeds = Mapping[str, Array]
Fetches = dict[str, Array]


class TensorSpec(Record):
    """The declared form of one input or output.

    Attributes:
        name: the tensor's name in `Feeds` or `Fetches`.
        dtype: a NumPy dtype name, for example `int64` or `float32`.
        shape: one entry an axis: a length, or the name of an axis that varies between calls.
        pad: the value a runtime fills in where it needs a longer axis than it was given.
        source: the tensor's name inside the engine's file, where that differs from `name`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    pad: int = 0
    source: str = ""


def check_feeds(specs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Compare feeds with their specs.

    Raises:
        EngineError: a tensor is missing, unknown, or of the wrong dtype or shape.
    """
    if {spec.name for spec in specs} != feeds.keys():
        expected = ", ".join(spec.name for spec in specs)
        raise EngineError(f"feeds: expected exactly {expected}, got {', '.join(sorted(feeds)) or 'nothing'}")
    axes: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise EngineError(f"{spec.name}: expected dtype {spec.dtype}, got {array.dtype}")
        _check_shape(spec, array.shape, axes)


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], axes: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape)
    for wanted, got in zip(spec.shape, shape, strict=False):
        if isinstance(wanted, str):
            fits = fits and axes.setdefault(wanted, got) == got
        else:
            fits = fits and wanted == got
    if not fits:
        raise EngineError(f"{spec.name}: expected shape {list(spec.shape)}, got {list(shape)}")
