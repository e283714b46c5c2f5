"""Successive halving and the sampler's own choices, on a small search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorstep_converters.budget import parse_budget
from doorstep_converters.job import Job
from doorstep_converters.progress import Lines
from doorstep_converters.search import study
from doorstep_converters.search.front import Judged, Point, Tried
from doorstep_converters.search.order import Order
from doorstep_converters.search.run import Found, search
from doorstep_converters.search.space import Choice
from doorstep_converters.search.steps import Steps
from doorstep_converters.search.turns import lateness
from doorstep_converters.stages import Output

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
        (150.0, 500, 400.0, "500 steps would take 8.3 min, and it has 6.7"),
        (15.0, 0, 200.0, "all steps would take 10.0 min, and it has 3.3"),
        (2.0, 500, -30.0, ""),
        (30.0, 500, -30.0, "500 steps would take 1.7 min, and it has 0.0"),
    ],
)
def test_a_student_that_would_learn_far_beyond_the_deadline_stops(
    seconds: float, steps: int, left: float, told: str
) -> None:
    assert lateness({"seconds": seconds, "steps": 150, "all_steps": 6000}, steps, left) == told


class _Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class _Timed:
    """Steps of a search whose work takes what `seconds` says, on a clock of their own."""

    def __init__(self, clock: _Clock, learners: dict[str, tuple[float, dict[int, float]]], slow: str = "") -> None:
        self.teacher = self.data = SimpleNamespace(digest="synthetic")
        self.watch = Lines()
        self.learnt: list[tuple[str, int]] = []
        self._clock, self._learners, self._slow = clock, learners, slow

    def judged_by(self) -> str:
        return "here"

    def teacher_accuracy(self) -> float:
        return 0.95

    def smallest(self, student: Output) -> int:
        return 1000 * (1 + list(self._learners).index(student.folder.name))

    def build(self, choice: Choice) -> Output:
        return Output(Path(choice.student), {}, choice.student, False)

    def train(self, choice: Choice, student: Output, steps: int) -> Output:
        seconds, accuracies = self._learners[choice.student]
        self.learnt.append((choice.student, steps))
        self._clock.now += seconds * (steps or 1000)
        result = {"dev_accuracy": accuracies[steps], "seconds": seconds * (steps or 1000), "steps": steps or 1000,
                  "all_steps": 1000}  # fmt: skip
        return Output(student.folder, result, student.digest, False)

    def measure(self, name: str, student: Output, variants: Sequence[str]) -> Judged:
        slow = 9.0 if student.folder.name == self._slow else 1.0
        return Judged((Point(name, "onnx-int8", {"drop": 1.0, "size": 1e4, "p95": slow}, str(student.folder)),))


def _timed_search(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    learners: dict[str, tuple[float, dict[int, float]]],
    slow: str = "",
    rungs: tuple[int, ...] = (10, 0),
) -> tuple[list[str], dict[str, Tried]]:
    """Return who learnt to the end, in that order, and what came of each; no one is stopped for others' sake."""
    never = study.optuna.pruners.NopPruner()
    monkeypatch.setattr(study.optuna.pruners, "SuccessiveHalvingPruner", lambda **_: never)
    clock = _Clock()
    monkeypatch.setattr(study, "time", clock)
    job = Job("none", "x86-64", folder / "out", cache=folder / "cache")
    order = Order(
        job,
        parse_budget("p95<=2ms"),
        students=tuple(learners),
        augmented=(False,),
        rungs=rungs,
        minutes=10.0,
        trials=len(learners),
    )
    steps = _Timed(clock, learners, slow)
    searched = study.Study(order, cast("Steps", steps))
    searched.enqueue()
    searched.work()
    return [name for name, number in steps.learnt if not number], {tried.choice: tried for tried in searched.tried()}


def test_the_best_that_wait_learn_first_and_have_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six minutes to learn to the end, of ten: the first two would have taken the best one's."""
    same = (0.36, {10: 0.80, 0: 0.85})
    learners = {"static-8w-200v": same, "static-9w-200v": same, "cnn-1l-48w-64f-4096v": (0.36, {10: 0.90, 0: 0.94})}
    ended, tried = _timed_search(tmp_path, monkeypatch, learners)
    assert ended == ["cnn-1l-48w-64f-4096v"]
    assert [one.state for one in tried.values()].count("stopped") == 2


def test_where_all_is_too_slow_the_smallest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learners = {
        name: (0.1, {10: accuracy, 0: 0.9})
        for name, accuracy in (("static-8w-200v", 0.80), ("static-9w-200v", 0.81), ("cnn-1l-48w-64f-4096v", 0.82))
    }
    best = "cnn-1l-48w-64f-4096v"
    assert _timed_search(tmp_path / "quick", monkeypatch, learners)[0] == [best, "static-9w-200v", "static-8w-200v"]
    slow = _timed_search(tmp_path / "slow", monkeypatch, learners, slow=best)[0]
    assert slow == [best, "static-8w-200v", "static-9w-200v"]


def test_a_student_does_not_take_the_time_of_better_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 100 steps would take 4 of the 10 minutes, the one that waits needs 8."""
    learners = {
        "static-8w-200v": (0.48, {10: 0.80, 100: 0.85, 0: 0.90}),
        "cnn-1l-48w-64f-4096v": (2.4, {10: 0.80, 100: 0.94, 0: 0.95}),
    }
    ended, tried = _timed_search(tmp_path, monkeypatch, learners, rungs=(10, 100, 0))
    assert ended == ["static-8w-200v"]
    late = tried["cnn-1l-48w-64f-4096v"]
    assert (late.state, list(late.rungs)) == ("stopped", ["10"])
    assert late.reason.startswith("100 steps would take 4.0 min")
