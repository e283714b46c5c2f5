"""Gates: what is counted, on answers whose figures can be worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doorstep.errors import DataError
from doorstep.tasks import softmax
from doorstep_converters.augment.noise import NOISE
from doorstep_converters.calibration_error import expected_calibration_error, fit_temperature, tempered
from doorstep_converters.data import Row
from doorstep_converters.gates import Exam, gates_card, judge, plan_exam
from doorstep_converters.slices import read_slices

LABELS = ("no", "yes")


def _one_hot(classes: list[int], confidence: float = 0.9) -> np.ndarray:
    rows = np.full((len(classes), 2), 1 - confidence, np.float32)
    rows[np.arange(len(classes)), classes] = confidence
    return rows


@pytest.fixture
def exam() -> Exam:
    """40 clean texts, half of each class and slice; four noisy copies of the first four."""
    texts = tuple(f"text {place}" for place in range(44))
    slices = tuple("north" if place < 20 else "south" for place in range(40))
    return Exam(texts, (0, 1) * 20, slices, {"typo": tuple((40 + place, place) for place in range(4))})


def test_figures_are_those_counted_by_hand(exam: Exam) -> None:
    got = [*exam.truth, 0, 1, 1, 0]  # noisy copies: two right, two wrong
    got[0] = got[2] = 1  # two mistakes, both of class "no" and in the north
    teacher = list(exam.truth)
    gates = judge(exam, LABELS, _one_hot(got), _one_hot(teacher))
    assert gates.accuracy == pytest.approx(0.95)
    assert gates.drop == pytest.approx(5.0)
    assert gates.agreement == pytest.approx(0.95)
    assert gates.classes == {"no": pytest.approx(0.9), "yes": 1.0}
    assert gates.worst_class == pytest.approx(0.9)
    assert gates.slices == {"north": pytest.approx(0.9), "south": 1.0}
    assert gates.slice_gap == pytest.approx(10.0)
    assert gates.noise == {"typo": pytest.approx(0.0)}  # clean: two of four right as well
    assert gates.ece_before == pytest.approx(0.05, abs=1e-3)


def test_small_slices_are_left_out_and_one_slice_has_no_gap(exam: Exam) -> None:
    few = Exam(exam.texts, exam.truth, ("north",) * 30 + ("south",) * 10, {})
    gates = judge(few, LABELS, _one_hot([*exam.truth, 0, 0, 0, 0]), _one_hot(list(exam.truth)))
    assert gates.slices.keys() == {"north"}
    assert gates.slice_gap is None
    assert gates.noise_drop is None


def test_the_card_names_the_worst_class_and_noise(exam: Exam) -> None:
    got = [*exam.truth, 1, 0, 1, 0]
    card = gates_card({"onnx-int8": judge(exam, LABELS, _one_hot(got), _one_hot(list(exam.truth)))})
    assert "| onnx-int8 | 1.0000 | 0.00 | 1.0000 |" in card
    assert "100.00 (typo)" in card
    assert "| typo | -100.00 |" in card
    assert "| north | 1.000 |" in card


def test_the_card_shows_classes_and_slices_of_every_variant_the_worst_first(exam: Exam) -> None:
    teacher, wrong = _one_hot(list(exam.truth)), [1 - exam.truth[0], *exam.truth[1:]]
    judged = {name: judge(exam, LABELS, _one_hot([*got, 1, 0, 1, 0]), teacher)
              for name, got in (("onnx-int8", exam.truth), ("tflite-int8", wrong))}  # fmt: skip
    lines = gates_card(judged).splitlines()
    start = lines.index("Recall of each class:")
    assert lines[start + 2] == "| | onnx-int8 | tflite-int8 |"
    worst = LABELS[exam.truth[0]]
    assert lines[start + 4].startswith(f"| {worst} | 1.000 | 0.9")
    assert lines[start + 5].endswith("| 1.000 | 1.000 |")
    assert "-0.00" not in "".join(lines)
    start = lines.index("Accuracy of each slice:")
    assert lines[start + 4].startswith("| north | 1.000 | 0.9")


def test_of_many_classes_the_card_shows_the_worst(exam: Exam) -> None:
    judged = judge(exam, LABELS, _one_hot([*exam.truth, 1, 0, 1, 0]), _one_hot(list(exam.truth)))
    classes = {f"c|{place}": place / 100 for place in range(40)}
    card = gates_card({"onnx-int8": replace(judged, classes=classes)})
    assert "Recall of each class (the 30 worst of 40):" in card
    assert "| c\\|29 | 0.290 |" in card
    assert "0.300" not in card


def test_temperature_mends_overconfident_answers() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 4000)
    logits = rng.standard_normal((4000, 4)) + 1.5 * np.eye(4)[truth]
    sharp = softmax(4.0 * logits)
    temperature = fit_temperature(sharp, truth.tolist())
    mended = tempered(sharp, temperature)
    assert temperature > 1.5
    assert expected_calibration_error(mended, truth.tolist()) < expected_calibration_error(sharp, truth.tolist()) / 3
    assert (mended.argmax(axis=1) == sharp.argmax(axis=1)).all()


def test_a_temperature_of_one_changes_nothing() -> None:
    rows = _one_hot([0, 1, 1])
    assert tempered(rows, 1.0) is rows


def test_noise_is_the_same_for_the_same_seed_and_only_changed_texts_count() -> None:
    rows = [Row(f"is the oat milk number {place} back in stock", "yes") for place in range(30)]
    one, other = (plan_exam(rows, {"yes": 0}, {}, seed=5) for _ in range(2))
    assert one == other
    assert set(one.noisy) <= set(NOISE)
    assert "typo" in one.noisy
    assert all(one.texts[noisy] != one.texts[clean] for pairs in one.noisy.values() for noisy, clean in pairs)
    assert plan_exam(rows, {"yes": 0}, {}, seed=6).texts != one.texts


def test_many_numbers_become_four_ranges(tmp_path: Path) -> None:
    lines = [f"text {age},good,{age}" for age in range(18, 82)]
    (tmp_path / "d.csv").write_text("\n".join(["text,label,age", *lines]))
    slices = read_slices(tmp_path / "d.csv", "age")
    assert sorted(set(slices.values())) == ["18 to 33.75", "33.75 to 49.5", "49.5 to 65.25", "65.25 to 81"]
    assert slices["text 18"] == "18 to 33.75"
    assert slices["text 81"] == "65.25 to 81"


def test_names_stay_slices_in_chinese_as_well(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label,city\n很好,good,北京\n不好,bad,上海\n还行,good,\n", encoding="utf-8")
    assert read_slices(tmp_path / "d.csv", "city") == {"很好": "北京", "不好": "上海", "还行": ""}


@pytest.mark.parametrize(
    ("column", "message"), [("town", "expected a column 'town'"), ("shop", "one value for all texts")]
)
def test_unusable_slices_are_named(tmp_path: Path, column: str, message: str) -> None:
    (tmp_path / "d.csv").write_text("text,label,shop\na,x,1\nb,y,1\n")
    with pytest.raises(DataError, match=message):
        read_slices(tmp_path / "d.csv", column)
