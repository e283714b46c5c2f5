"""Records: cheap to define, dataclasses to everybody else."""

import copy
import dataclasses
import subprocess
import sys

import pytest

from doorstep.record import Record


class Point(Record):
    x: int
    y: int = 2
    notes: dict[str, str] = {}


class Pair(Record):
    left: Point
    right: Point


def test_fields_are_given_by_place_and_by_name_and_the_rest_take_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1, y=5).y, Point(x=3, y=4).x) == (1, 2, 5, 3)


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        ((), {}, "Point: x is missing"),
        ((1, 2, {}, 4), {}, "at most 3 values, got 4"),
        ((1,), {"x": 2}, "x is given twice"),
        ((1,), {"z": 2}, "got z"),
    ],
)
def test_wrong_values_are_refused(values: tuple[object, ...], named: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*values, **named)  # type: ignore[arg-type]


def test_records_are_equal_by_kind_and_values() -> None:
    class Other(Record):
        x: int
        y: int = 2
        notes: dict[str, str] = {}

    assert Point(1) == Point(1, 2)
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)


def test_a_record_of_hashable_values_can_be_a_key() -> None:
    class Key(Record):
        name: str

    assert {Key("a"): 1}[Key("a")] == 1


@pytest.mark.parametrize("name", ["x", "unknown"])
def test_a_record_cannot_be_changed(name: str) -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        setattr(point, name, 2)
    with pytest.raises(AttributeError):
        delattr(point, name)
    assert point == Point(1)


def test_every_record_has_a_default_dict_of_its_own() -> None:
    first = Point(1)
    first.notes["a"] = "b"
    assert Point(1).notes == {}


def test_the_functions_of_dataclasses_work_on_records() -> None:
    pair = Pair(Point(1), Point(2, 3, {"a": "b"}))
    assert dataclasses.is_dataclass(pair)
    assert [field.name for field in dataclasses.fields(Pair)] == ["left", "right"]
    assert dataclasses.asdict(pair) == {
        "left": {"x": 1, "y": 2, "notes": {}},
        "right": {"x": 2, "y": 3, "notes": {"a": "b"}},
    }
    assert dataclasses.replace(pair, left=Point(9)) == Pair(Point(9), pair.right)
    assert copy.deepcopy(pair) == pair


def test_it_shows_itself_as_it_was_written() -> None:
    assert repr(Point(1)) == "Point(x=1, y=2, notes={})"


def test_loading_the_package_brings_no_module_that_a_start_can_do_without() -> None:
    code = (
        "import numpy, tokenizers, sys; before = set(sys.modules); import doorstep.predictor, "
        "doorstep.tasks.text_classification; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brought = {name for name in done.stdout.split() if not name.startswith("doorstep")}
    assert brought == {"__future__", "errno", "hashlib", "_hashlib", "_blake2", "mmap"}
