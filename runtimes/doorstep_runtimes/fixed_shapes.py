"""Any batch and any length over an engine that has only a few fixed shapes: which shape, how padded, how split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from doorstep.errors import EngineError
from doorstep.session import Session
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec, check_feeds

Shape = dict[str, int]
"""Axis name to length, for every axis that varies."""


def varying_axes(specs: Sequence[TensorSpec]) -> dict[str, tuple[str, int]]:
    """Map each varying axis to (input name, place of the axis) where its length can be read."""
    axes: dict[str, tuple[str, int]] = {}
    for spec in specs:
        for place, axis in enumerate(spec.shape):
            if isinstance(axis, str):
                axes.setdefault(axis, (spec.name, place))
    return axes


def plan_batches(shapes: Mapping[str, Shape], wanted: Shape) -> Iterator[tuple[int, str]]:
    """Yield (first row, shape's key) until every row of the batch is covered.

    Raises:
        EngineError: an axis is longer than every shape.
    """
    start, rows = 0, wanted.get("batch", 1)
    while start < rows:
        key = choose_shape(shapes, {**wanted, "batch": rows - start} if "batch" in wanted else wanted)
        yield start, key
        start += shapes[key].get("batch", 1)


def choose_shape(shapes: Mapping[str, Shape], wanted: Shape) -> str:
    """Return the key of the shape that covers `wanted` with the least work; only the batch may be split.

    Work is counted as elements computed for each row that was wanted.

    Raises:
        EngineError: an axis is longer than every shape.
    """
    best, least = "", float("inf")
    for key, shape in shapes.items():
        if any(shape[axis] < length for axis, length in wanted.items() if axis != "batch"):
            continue
        rows = shape.get("batch", 1)
        work = float(prod([length for axis, length in shape.items() if axis != "batch"]))
        work *= rows / min(rows, wanted.get("batch", 1))
        if work < least or (work == least and rows > shapes[best].get("batch", 1)):
            best, least = key, work
    if not best:
        longest = {axis: max(shape[axis] for shape in shapes.values()) for axis in wanted}
        raise EngineError(f"feeds: expected axes of at most {longest}, got {wanted}")
    return best


def fill(array: Array, shape: tuple[int, ...], pad: int) -> Array:
    """Return `array` in the corner of an array of `shape`, the rest filled with `pad`."""
    if array.shape == shape:
        return array
    filled = np.full(shape, pad, array.dtype)
    filled[tuple(slice(0, length) for length in array.shape)] = array
    return filled


class FixedBatch:
    """Any batch over a session whose inputs and outputs all have one fixed first axis."""

    def __init__(self, session: Session, rows: int) -> None:
        self._session = session
        self._rows = rows
        self._inputs = tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in session.inputs)
        self._outputs = tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in session.outputs)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        check_feeds(self._inputs, feeds)
        wanted = len(feeds[self._inputs[0].name])
        if wanted == 0:
            raise EngineError("feeds: expected at least one row, got none")
        parts = [self._part(feeds, start) for start in range(0, wanted, self._rows)]
        return {name: np.concatenate([part[name] for part in parts])[:wanted] for name in parts[0]}

    def close(self) -> None:
        self._session.close()

    def _part(self, feeds: Feeds, start: int) -> Fetches:
        rows = {spec.name: feeds[spec.name][start : start + self._rows] for spec in self._inputs}
        return self._session.run(
            {
                spec.name: fill(rows[spec.name], (self._rows, *rows[spec.name].shape[1:]), spec.pad)
                for spec in self._inputs
            }
        )


def with_any_batch(session: Session) -> Session:
    """Return `session`, behind a `FixedBatch` where its first axes are one fixed number."""
    first = {spec.shape[0] if spec.shape else "" for spec in (*session.inputs, *session.outputs)}
    rows = first.pop() if len(first) == 1 else ""
    return FixedBatch(session, rows) if isinstance(rows, int) and rows > 0 else session
