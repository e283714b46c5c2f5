"""Aids for tests, of this project and of plug-ins: `FakeSession`, and the contracts of an adapter and of a task."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import EngineError, InputError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tasks import Task
from doorstep.tensors import Feeds, Fetches, TensorSpec, check_feeds

_THREADS = 4


class FakeSession:
    """A session without an engine: `answer(feeds)` is the model."""

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], answer: Callable[[Feeds], Fetches]
    ) -> None:
        self.inputs: Sequence[TensorSpec] = tuple(inputs)
        self.outputs: Sequence[TensorSpec] = tuple(outputs)
        self._answer = answer
        self._is_closed = False

    def run(self, feeds: Feeds) -> Fetches:
        if self._is_closed:
            raise EngineError("the session is closed")
        check_feeds(self.inputs, feeds)
        return self._answer(feeds)

    def close(self) -> None:
        self._is_closed = True


@dataclass(frozen=True, slots=True)
class GraphCase:
    """A model for `check_session`.

    Attributes:
        feeds: runs the model can do; give several batches, and several lengths where an axis varies.
        expected: the right fetches of each, known without the engine.
        tolerance: largest absolute difference allowed.
    """

    graph: Graph
    feeds: tuple[Feeds, ...]
    expected: tuple[Fetches, ...]
    tolerance: float = 1e-5


def check_session(open_: Callable[[Graph, SessionOptions], Session], cases: Sequence[GraphCase]) -> None:
    """Check all that doorstep relies on in an adapter; `open_` is its `open_graph`. Raises AssertionError."""
    for case in cases:
        _check_refusals(open_, case.graph)
        session = open_(case.graph, SessionOptions(threads=2))
        declared = (tuple(session.inputs), tuple(session.outputs))
        _require(declared == (case.graph.inputs, case.graph.outputs), "inputs or outputs are not those of the graph")
        kept = [session.run(feeds) for feeds in case.feeds]
        for feeds, fetches, expected in zip(case.feeds, kept, case.expected, strict=True):
            check_feeds(session.inputs, feeds)
            _check_fetches(session.outputs, feeds, fetches)
            _require(_is_near(fetches, expected, case.tolerance), "another answer than expected, or a kept one changed")
            _check_rows(session, feeds, fetches, case.tolerance)
        with ThreadPoolExecutor(_THREADS) as pool:
            again = list(pool.map(session.run, case.feeds * 2 * _THREADS))
        for fetches, expected in zip(again, kept * 2 * _THREADS, strict=True):
            _require(_is_near(fetches, expected, case.tolerance), "another answer when several threads call")
        for name in case.feeds[0]:
            without = {key: array for key, array in case.feeds[0].items() if key != name}
            _expect(EngineError, f"feeds without {name}", session.run, without)
        session.close()
        session.close()
        _expect(EngineError, "a run after close", session.run, case.feeds[0])


def check_task(task: Task, items: Sequence[Any], run: Callable[[Feeds], Fetches] | None = None) -> None:
    """Check a task on valid `items`; with `run`, a session's, results too. Raises AssertionError."""
    rows = task.prepare(items)
    _require(len(rows) == len(items), f"{len(items)} items became {len(rows)} rows")
    _require(all(task.length(row) >= 0 for row in rows), "a negative length")
    _require(len(task.prepare([])) == 0, "no items became rows")
    for row in rows:
        feeds = task.collate([row, row])
        _require(all(len(array) == 2 for array in feeds.values()), "two rows became a batch of another size")
        if run is not None:
            results = task.results(run(feeds), [row, row])
            _require(len(results) == 2 and results[0] == results[1], "two equal rows gave different results")
    with ThreadPoolExecutor(_THREADS) as pool:
        for again in pool.map(task.prepare, [items] * _THREADS):
            same = all(
                _is_near(task.collate([a]), task.collate([b]), 0, is_nan_equal=True)
                for a, b in zip(rows, again, strict=True)
            )
            _require(same, "items became other rows when several threads call")
    message = str(_expect(InputError, "an item that is an object()", task.prepare, [*items, object()]))
    _require(f"item {len(items)}" in message, f"the error does not name the item's place: {message}")


def _check_refusals(open_: Callable[[Graph, SessionOptions], Session], graph: Graph) -> None:
    unknown = SessionOptions(engine_options={"no_such_option_anywhere": 1})
    _expect(EngineError, "an unknown engine option", open_, graph, unknown)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(graph.path).name
        _expect(EngineError, "a missing file", open_, replace(graph, path=path), SessionOptions())
        for data in (b"", b"this is not a model\n" * 100, Path(graph.path).read_bytes()[:-100]):
            path.write_bytes(data)
            path.with_suffix(".bin").write_bytes(b"")
            _expect(EngineError, "a file that is no model", open_, replace(graph, path=path), SessionOptions())


def _check_fetches(specs: Sequence[TensorSpec], feeds: Feeds, fetches: Fetches) -> None:
    batch = len(next(iter(feeds.values())))
    _require(list(fetches) == [spec.name for spec in specs], f"fetches {list(fetches)} are not the outputs, in order")
    for spec in specs:
        array = fetches[spec.name]
        _require(array.dtype == np.dtype(spec.dtype), f"{spec.name} is {array.dtype}, declared {spec.dtype}")
        fits = all(isinstance(axis, str) or axis == got for axis, got in zip(spec.shape, array.shape, strict=True))
        _require(fits and len(array) == batch, f"{spec.name} is {array.shape} for a batch of {batch}")


def _check_rows(session: Session, feeds: Feeds, fetches: Fetches, tolerance: float) -> None:
    for place in range(len(next(iter(feeds.values())))):
        alone = session.run({name: array[place : place + 1] for name, array in feeds.items()})
        same = {name: array[place : place + 1] for name, array in fetches.items()}
        _require(_is_near(alone, same, tolerance), f"row {place} alone gives another answer than in its batch")


def _is_near(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float, is_nan_equal: bool = False) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape
        and np.allclose(one[name], other[name], rtol=0, atol=tolerance, equal_nan=is_nan_equal)
        for name in one
    )


def _expect(kind: type[Exception], what: str, call: Callable[..., Any], *arguments: Any) -> Exception:
    try:
        call(*arguments)
    except Exception as error:  # noqa: BLE001 -- whatever comes is compared with what should
        _require(isinstance(error, kind), f"{what}: expected {kind.__name__}, got {type(error).__name__}: {error}")
        return error
    raise AssertionError(f"{what}: expected {kind.__name__}, got an answer")


def _require(is_met: bool, message: str) -> None:
    if not is_met:
        raise AssertionError(message)
