"""The shipped contracts pass what is right and catch what is wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.errors import EngineError, InputError
from doorstep.predictor import Predictor
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Feeds, Fetches, TensorSpec, check_feeds
from doorstep.testing import FakeSession, GraphCase, check_session, check_task

INPUTS = (TensorSpec("x", "float32", ("batch", "length")),)
OUTPUTS = (TensorSpec("y", "float32", ("batch",)),)


def total(feeds: Feeds) -> Fetches:
    return {"y": feeds["x"].sum(1)}


@pytest.fixture
def case(tmp_path: Path) -> GraphCase:
    (tmp_path / "model").write_bytes(b"model" * 100)
    feeds = tuple(
        {"x": np.arange(rows * length, dtype=np.float32).reshape(rows, length)} for rows, length in [(1, 3), (4, 2)]
    )
    return GraphCase(Graph(tmp_path / "model", INPUTS, OUTPUTS), feeds, tuple(total(feed) for feed in feeds))


def check_file(graph: Graph, options: SessionOptions) -> None:
    if not graph.path.exists() or graph.path.read_bytes() != b"model" * 100:
        raise EngineError("no model")
    if options.engine_options:
        raise EngineError("unknown option")


def opener(answer: Callable[[Feeds], Fetches], kind: type[FakeSession] = FakeSession) -> Any:
    def open_(graph: Graph, options: SessionOptions) -> Session:
        check_file(graph, options)
        return kind(graph.inputs, graph.outputs, answer)

    return open_


def test_a_right_adapter_keeps_the_contract(case: GraphCase) -> None:
    check_session(opener(total), [case])


class NeverCloses(FakeSession):
    def close(self) -> None:
        pass


class ClosesOnce(FakeSession):
    def close(self) -> None:
        if self._is_closed:
            raise RuntimeError("closed already")
        super().close()


class LeaksKeyError(FakeSession):
    def run(self, feeds: Feeds) -> Fetches:
        feeds["x"]
        return super().run(feeds)


class OneBuffer(FakeSession):
    """Writes every answer into the same array."""

    _buffer = np.zeros(4, np.float32)

    def run(self, feeds: Feeds) -> Fetches:
        fetches = super().run(feeds)
        self._buffer[: len(fetches["y"])] = fetches["y"]
        return {"y": self._buffer[: len(fetches["y"])]}


def opens_anything(graph: Graph, options: SessionOptions) -> Session:
    return FakeSession(graph.inputs, graph.outputs, total)


def leaks_os_errors(graph: Graph, options: SessionOptions) -> Session:
    graph.path.read_bytes()
    return opener(total)(graph, options)


def forgets_inputs(graph: Graph, options: SessionOptions) -> Session:
    check_file(graph, options)
    return FakeSession((), graph.outputs, total)


WRONG: dict[str, tuple[Any, str]] = {
    "opens anything": (opens_anything, "an unknown engine option: expected EngineError, got an answer"),
    "leaks OSError": (leaks_os_errors, "a missing file: expected EngineError, got FileNotFoundError"),
    "forgets its inputs": (forgets_inputs, "inputs or outputs are not those"),
    "another dtype": (opener(lambda feeds: {"y": feeds["x"].sum(1).astype(np.float64)}), "float64, declared float32"),
    "another shape": (opener(lambda feeds: {"y": feeds["x"].sum(1)[:1]}), r"is \(1,\) for a batch of 4"),
    "another output": (opener(lambda feeds: {"z": feeds["x"].sum(1)}), "are not the outputs"),
    "another answer": (opener(lambda feeds: {"y": feeds["x"].sum(1) + 1}), "another answer than expected"),
    "one buffer": (opener(total, OneBuffer), "a kept one changed"),
    "never closes": (opener(total, NeverCloses), "a run after close: expected EngineError, got an answer"),
    "closes once": (opener(total, ClosesOnce), "closed already"),
    "leaks KeyError": (opener(total, LeaksKeyError), "feeds without x: expected EngineError, got KeyError"),
}


@pytest.mark.parametrize("open_, message", WRONG.values(), ids=WRONG)
def test_a_wrong_adapter_breaks_the_contract(case: GraphCase, open_: Any, message: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=message):
        check_session(open_, [case])


def test_rows_that_depend_on_their_neighbours_break_the_contract(case: GraphCase) -> None:
    blended = opener(lambda feeds: {"y": feeds["x"].sum(1) + np.float32(0.1 * (len(feeds["x"]) - 1))})
    between = tuple({"y": fetches["y"] + np.float32(0.15)} for fetches in case.expected)
    near = GraphCase(case.graph, case.feeds, between, tolerance=0.2)
    with pytest.raises(AssertionError, match="alone gives another answer"):
        check_session(blended, [near])


@pytest.mark.parametrize(
    "name, items",
    [
        ("bundle", ["love it", "", "配送很快"]),
        ("tensor_bundle", [[1, 2], [3, 4, 5]]),
        ("picture_bundle", [np.zeros((5, 5, 3), np.uint8), np.full((9, 3, 3), 7, np.uint8)]),
    ],
)
def test_every_task_keeps_the_contract(request: pytest.FixtureRequest, name: str, items: list[Any]) -> None:
    with Predictor.load(request.getfixturevalue(name)) as predictor:
        check_task(predictor._task, items, predictor._session.run)


class Words:
    """A right task: the number of words."""

    def prepare(self, items: Any) -> list[int]:
        for place, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(f"item {place}: expected a text")
        return [len(item.split()) for item in items]

    def length(self, row: int) -> int:
        return row

    def collate(self, rows: Any) -> Feeds:
        return {"x": np.array(rows)}

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[int]:
        return list(fetches["x"])


class LosesARow(Words):
    def prepare(self, items: Any) -> list[int]:
        return super().prepare(items)[:1]


class TakesAnything(Words):
    def prepare(self, items: Any) -> list[int]:
        return [len(str(item)) for item in items]


class NamesNoPlace(Words):
    def prepare(self, items: Any) -> list[int]:
        return [len(self._text(item)) for item in items]

    def _text(self, item: Any) -> str:
        if not isinstance(item, str):
            raise InputError("expected a text")
        return item


class CollatesOne(Words):
    def collate(self, rows: Any) -> Feeds:
        return {"x": np.array(rows[:1])}


class LosesAResult(Words):
    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[int]:
        return list(fetches["x"])[:1]


class Counts(Words):
    """Gives each call another answer."""

    _calls = 0

    def prepare(self, items: Any) -> list[int]:
        self._calls += 1
        return [row + self._calls for row in super().prepare(items)]


def test_a_right_task_keeps_the_contract() -> None:
    check_task(Words(), ["a", "b c", ""], dict)


@pytest.mark.parametrize(
    "task, message",
    [
        (LosesARow(), "2 items became 1 rows"),
        (TakesAnything(), r"object\(\): expected InputError, got an answer"),
        (NamesNoPlace(), "does not name the item's place"),
        (CollatesOne(), "a batch of another size"),
        (LosesAResult(), "two equal rows gave different results"),
        (Counts(), "other rows when several threads call"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_task_breaks_the_contract(task: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(task, ["a", "b c"], dict)


FEEDS = {"x": np.zeros((2, 3), np.float32), "y": np.zeros((2,), np.int64)}
SPECS = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("y", "int64", ("batch",)))


def test_feeds_of_the_declared_form_are_taken() -> None:
    check_feeds(SPECS, FEEDS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": None}, "expected exactly x, y, got y"),
        ({"z": np.zeros(1)}, "expected exactly x, y, got x, y, z"),
        ({"x": np.zeros((2, 3))}, "x: expected dtype float32, got float64"),
        ({"x": np.zeros((2, 4), np.float32)}, r"x: expected shape \['batch', 3\], got \[2, 4\]"),
        ({"x": np.zeros((2,), np.float32)}, r"got \[2\]"),
        ({"y": np.zeros((3,), np.int64)}, r"y: expected shape \['batch'\], got \[3\]"),
    ],
)
def test_feeds_of_another_form_are_refused(change: dict[str, Any], message: str) -> None:
    feeds = {name: array for name, array in {**FEEDS, **change}.items() if array is not None}
    with pytest.raises(EngineError, match=message):
        check_feeds(SPECS, feeds)
