"""Every tested architecture, from a small random configuration, in every runtime."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.golden import compare, load_golden
from doorstep_converters.checkpoint import TESTED
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines

ENGINES = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")


@pytest.fixture(scope="module", params=TESTED)
def bundle(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[[str], Path],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # A random model's classes can lie closer together than fp16 weights resolve: a few of 38 labels may turn, and what
    # proves the engines right is the largest error below.
    bound = Bound(agreement=0.9)
    checkpoint = str(make_checkpoint(request.param))
    job = Job(checkpoint, "x86-64", out, cache=cache, variants=ENGINES, max_length=32, bound=bound)
    report = convert(job, Lines())
    assert report.bundle is not None, [candidate.failure for candidate in report.candidates]
    return report.bundle


@pytest.mark.slow
def test_every_engine_answers_like_the_checkpoint(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    measured = {variant.name: variant.measured for variant in manifest.variants}
    assert tuple(measured) == ENGINES
    exact = measured["onnx-fp32"]
    assert exact
    assert (exact.agreement, exact.max_abs_error < 1e-4 if exact.max_abs_error is not None else None) == (1.0, True)
    assert all(figures and figures.max_abs_error < 0.01 for figures in measured.values())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ENGINES)
def test_the_golden_examples_hold_in_each_engine(bundle: Path, variant: str) -> None:
    with Predictor.load(bundle, variant=variant, strict=True) as predictor:
        golden = load_golden(predictor.bundle)
        assert len(golden.examples) >= 8
        assert compare(predictor, golden) == []
