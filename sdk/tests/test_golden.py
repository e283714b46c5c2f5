"""Golden examples: does this device answer as the checkpoint did?"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep.bundle import Bundle
from doorstep.errors import FormatError, IntegrityError
from doorstep.golden import Golden, compare, flatten, item_of, load_golden, max_error
from doorstep.measure import Plan, measure, percentile
from doorstep.predictor import Predictor
from doorstep.results import Classification, Label, Tensors

MakeBundle = Callable[..., Path]
NAN, INFINITY = float("nan"), float("inf")


def golden(*examples: dict[str, Any], tolerance: float = 1e-4) -> bytes:
    plain = {"format": 1, "examples": examples, "tolerances": {"onnx-fp32": tolerance}}
    return json.dumps(plain, ensure_ascii=False).encode()


def differences(folder: Path) -> int:
    with Predictor.load(folder, variant="onnx-fp32") as predictor:
        return len(compare(predictor, load_golden(predictor.bundle)))


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8"])
def test_a_right_variant_answers_every_example(bundle: Path, variant: str) -> None:
    with Predictor.load(bundle, variant=variant) as predictor:
        examples = load_golden(predictor.bundle)
        assert len(examples.examples) == 5
        assert compare(predictor, examples) == []


def test_a_variant_without_a_tolerance_must_be_exact(bundle: Path) -> None:
    with Predictor.load(bundle, variant="onnx-fp32") as predictor:
        examples = load_golden(predictor.bundle).examples
        shifted = [{label: score + 1e-6 for label, score in example.expected.items()} for example in examples]
        exact = Golden(1, tuple(type(e)(e.item, s) for e, s in zip(examples, shifted, strict=True)), {})
        assert len(compare(predictor, exact)) == 5


@pytest.mark.parametrize(
    "expected, count",
    [
        ({"negative": 0.9, "neutral": 0.05, "positive": 0.05}, 1),
        ({"nonsense": 1.0}, 1),
        ({}, 1),
    ],
    ids=["other numbers", "other labels", "nothing"],
)
def test_another_answer_is_a_difference(
    tmp_path: Path, make_bundle: MakeBundle, expected: dict[str, float], count: int
) -> None:
    example = {"item": "is the oat milk back in stock", "expected": expected}
    assert differences(make_bundle(tmp_path, files={"golden.json": golden(example)})) == count


@pytest.mark.parametrize(
    "expected, got, error",
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 2.0}, 0.5),
        ({"a": 1.0, "b": 2.0}, {"a": 1.25}, 0.25),
        ({"a": 1.0}, {"b": 1.0}, INFINITY),
        ({}, {}, INFINITY),
        ({"a": 1.0}, {"a": NAN}, INFINITY),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": NAN}, INFINITY),
        ({"a": 1.0, "b": 1.0}, {"a": NAN, "b": 1.0}, INFINITY),
        ({"a": 1.0}, {"a": INFINITY}, INFINITY),
    ],
)
def test_the_error_is_the_largest_and_never_hides_what_is_no_number(
    expected: dict[str, float], got: dict[str, float], error: float
) -> None:
    assert max_error(expected, got) == error


def test_results_become_flat_numbers() -> None:
    assert flatten(Classification("a", 0.9, (Label("a", 0.9), Label("b", 0.1)))) == {"a": 0.9, "b": 0.1}
    assert flatten(Tensors({"y": [[1, 2], [3, 4]], "z": 5})) == {"y[0]": 1, "y[1]": 2, "y[2]": 3, "y[3]": 4, "z[0]": 5}


def test_an_example_may_name_a_file_of_the_bundle(tmp_path: Path, make_bundle: MakeBundle) -> None:
    example = {"item": {"file": "golden/one.png"}, "expected": {"a": 1.0}}
    files = {"golden.json": golden(example), "golden/one.png": b"pixels"}
    bundle = Bundle.open(make_bundle(tmp_path, files=files))
    assert item_of(bundle, load_golden(bundle).examples[0]) == b"pixels"


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "manifest.json"])
def test_an_example_cannot_name_a_file_outside(tmp_path: Path, make_bundle: MakeBundle, path: str) -> None:
    example = {"item": {"file": path}, "expected": {"a": 1.0}}
    bundle = Bundle.open(make_bundle(tmp_path, files={"golden.json": golden(example)}))
    with pytest.raises(IntegrityError, match="not listed"):
        item_of(bundle, load_golden(bundle).examples[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 2, "examples": [], "tolerances": {}}',
        b'{"format": 1, "examples": [], "tolerances": {"a": true}}',
        b'{"format": 1, "examples": [], "tolerances": {"a": NaN}}',
        b'{"format": 1, "examples": [{"item": "a"}], "tolerances": {}}',
        b'{"format": 1, "examples": [{"item": "a", "expected": {"a": "1"}}], "tolerances": {}}',
        b'{"format": 1, "examples": {}, "tolerances": {}}',
    ],
)
def test_malformed_examples_are_refused(tmp_path: Path, make_bundle: MakeBundle, data: bytes) -> None:
    with pytest.raises(FormatError, match=r"golden\.json"):
        load_golden(Bundle.open(make_bundle(tmp_path, files={"golden.json": data})))


def test_measuring_runs_the_variant_in_fresh_processes(bundle: Path) -> None:
    figures = measure(Plan(str(bundle), "onnx-fp32", "love it", iterations=4, warmup=1, cold_starts=1))
    assert len(figures.latencies_ms) == 4
    assert 0 < figures.p50_ms <= figures.p95_ms
    assert figures.cold_start_ms > 0
    assert figures.peak_rss_mib > 1


@pytest.mark.parametrize("changes", [{"bundle": "/nowhere"}, {"variant": "onnx-int9"}, {"item": None}])
def test_a_measuring_process_that_fails_is_explained(bundle: Path, changes: dict[str, Any]) -> None:
    from doorstep.errors import EngineError

    plan = Plan(**{"bundle": str(bundle), "variant": "onnx-fp32", "item": "love it", "cold_starts": 1, **changes})
    with pytest.raises(EngineError, match="the measuring process failed: doorstep"):
        measure(plan)


@pytest.mark.parametrize("share, value", [(0, 1.0), (50, 3.0), (95, 5.0), (100, 5.0)])
def test_a_percentile_is_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], share) == value
