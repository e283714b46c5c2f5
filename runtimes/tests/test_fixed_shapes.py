"""Choosing among fixed shapes, splitting a batch over them, padding into them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.errors import EngineError
from doorstep.tensors import TensorSpec
from doorstep_runtimes.fixed_shapes import choose_shape, fill, plan_batches, varying_axes

SHAPES = {
    "b1_s16": {"batch": 1, "sequence": 16},
    "b1_s32": {"batch": 1, "sequence": 32},
    "b4_s16": {"batch": 4, "sequence": 16},
}


@pytest.mark.parametrize(
    "batch, sequence, chosen",
    [
        (1, 1, "b1_s16"),
        (1, 16, "b1_s16"),
        (1, 17, "b1_s32"),
        (1, 32, "b1_s32"),
        (2, 16, "b1_s16"),  # twice one row is less work than four
        (3, 16, "b1_s16"),
        (4, 16, "b4_s16"),
        (9, 5, "b4_s16"),
        (4, 17, "b1_s32"),
    ],
)
def test_the_shape_with_the_least_work_is_chosen(batch: int, sequence: int, chosen: str) -> None:
    assert choose_shape(SHAPES, {"batch": batch, "sequence": sequence}) == chosen


def test_a_length_beyond_every_shape_is_refused_with_the_longest() -> None:
    with pytest.raises(EngineError, match=r"at most .*'sequence': 32.* got .*'sequence': 33"):
        choose_shape(SHAPES, {"batch": 1, "sequence": 33})


def test_a_batch_is_split_and_its_rest_takes_the_small_shape() -> None:
    assert list(plan_batches(SHAPES, {"batch": 6, "sequence": 3})) == [(0, "b4_s16"), (4, "b1_s16"), (5, "b1_s16")]


def test_a_model_without_a_batch_axis_runs_once() -> None:
    assert list(plan_batches({"s8": {"sequence": 8}}, {"sequence": 5})) == [(0, "s8")]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=6, unique=True),
    rows=st.integers(1, 60),
    data=st.data(),
)
def test_every_row_is_covered_exactly_once(sizes: list[tuple[int, int]], rows: int, data: st.DataObject) -> None:
    shapes = {f"b{batch}_s{length}": {"batch": batch, "sequence": length} for batch, length in sizes}
    length = data.draw(st.integers(1, max(length for _, length in sizes)))
    covered: list[int] = []
    for start, key in plan_batches(shapes, {"batch": rows, "sequence": length}):
        assert shapes[key]["sequence"] >= length
        covered += range(start, min(start + shapes[key]["batch"], rows))
    assert covered == list(range(rows))


@given(
    have=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    pad=st.integers(-3, 3),
)
def test_filling_keeps_the_values_and_pads_the_rest(have: tuple[int, int], more: tuple[int, int], pad: int) -> None:
    array = np.full(have, 9, np.int32)
    filled = fill(array, (have[0] + more[0], have[1] + more[1]), pad)
    assert filled.dtype == array.dtype
    np.testing.assert_array_equal(filled[: have[0], : have[1]], array)
    assert np.count_nonzero(filled != pad) == array.size


def test_an_array_of_the_right_shape_is_not_copied() -> None:
    array = np.zeros((2, 3))
    assert fill(array, (2, 3), 0) is array


def test_the_axes_that_vary_are_found_where_they_first_stand() -> None:
    specs = [TensorSpec("image", "float32", (1, 3, "height")), TensorSpec("ids", "int32", ("batch", "height"))]
    assert varying_axes(specs) == {"height": ("image", 2), "batch": ("ids", 0)}
