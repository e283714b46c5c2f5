"""Successive halving and the sampler's own choices, on a small search."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep_converters.budget import parse_budget
from doorstep_converters.job import Job
from doorstep_converters.progress import Lines
from doorstep_converters.search.order import Order
from doorstep_converters.search.run import Found, search
from doorstep_converters.search.study import _lateness

STUDENTS = ("static-16w-200v", "static-8w-200v", "static-12w-200v")


@pytest.fixture(scope="module")
def found(
    make_checkpoint: Callable[[str], Path], reviews: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Found:
    folder = tmp_path_factory.mktemp("halving")
    head, *lines = reviews.read_text(encoding="utf-8").splitlines()
    more = [line.replace('",', f'{ending}",') for ending in ("", " now", " 谢谢") for line in lines]
    (folder / "plenty.csv").write_text("\n".join([head, *more]) + "\n", encoding="utf-8")
    job = Job(
        str(make_checkpoint("bert")), "x86-64", folder / "out", data=folder / "plenty.csv", cache=cache, max_length=32
    )
    return search(
        Order(
            job, parse_budget("drop<=100"), students=STUDENTS, augmented=(False,), rungs=(2, 6),
            trials=len(STUDENTS) + 2, variants=("onnx-int8-weights",), refined=("numpy-int8-weights",),
        ),
        Lines(),
    )  # fmt: skip


def test_worse_students_stop_after_the_first_steps_and_say_so(found: Found) -> None:
    stopped = [tried for tried in found.tried if tried.state == "stopped"]
    assert stopped
    assert {tuple(tried.rungs) for tried in stopped} == {("2",)}
    assert all("after 2 steps" in tried.reason for tried in stopped)
    assert not any(tried.points for tried in stopped)


def test_students_that_go_on_learn_to_the_end(found: Found) -> None:
    measured = [tried for tried in found.tried if tried.state == "measured"]
    assert measured
    assert {tuple(tried.rungs) for tried in measured} == {("2", "6")}


def test_behind_the_named_choices_the_sampler_draws_other_rates(found: Found) -> None:
    named = [tried.choice for tried in found.tried]
    assert set(STUDENTS) <= set(named)
    assert [name for name in named if "+rate" in name]


def test_the_best_students_are_measured_as_further_variants(found: Found) -> None:
    refined = {point.choice for point in found.points if point.variant == "numpy-int8-weights"}
    assert 1 <= len(refined) <= 2
    assert refined <= {tried.choice for tried in found.tried if tried.state == "measured"}


@pytest.mark.parametrize(
    ("seconds", "steps", "left", "told"),
    [
        (15.0, 500, 600.0, ""),
        (150.0, 500, 400.0, "500 steps would take 8.3 min, and the search has 6.7 left"),
        (15.0, 0, 200.0, "all steps would take 10.0 min, and the search has 3.3 left"),
        (2.0, 500, -30.0, ""),
        (30.0, 500, -30.0, "500 steps would take 1.7 min, and the search has 0.0 left"),
    ],
)
def test_a_student_that_would_learn_far_beyond_the_deadline_stops(
    seconds: float, steps: int, left: float, told: str
) -> None:
    assert _lateness({"seconds": seconds, "steps": 150, "all_steps": 6000}, steps, left) == told
