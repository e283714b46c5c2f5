"""Every tested architecture, from a small random configuration, in every runtime."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.golden import compare, load_golden
from doorstep_converters.checkpoint import TESTED
from doorstep_converters.job import Job
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines

EXACT = 1e-4  # the checkpoints' weights are exact in fp16, so that fp16 variants have no rounding to hide behind
# DeBERTa-v2 projects a table of relative positions. That product is computed at conversion, and rounded where it is
# stored as fp16: rounding the same four constants in ONNX Runtime gives 0.0048 too.
ROUNDED = {("deberta-v2", "openvino-fp16"): 0.01, ("deberta-v2", "numpy-fp16"): 0.01}
ENGINES = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")


@pytest.fixture(scope="module", params=TESTED)
def bundle(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[[str], Path],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("dist")
    checkpoint = str(make_checkpoint(request.param))
    job = Job(checkpoint, "x86-64", out, cache=cache, variants=ENGINES, max_length=32)
    report = convert(job, Lines())
    assert report.bundle is not None, [candidate.failure for candidate in report.candidates]
    return report.bundle


@pytest.mark.slow
def test_every_engine_answers_like_the_checkpoint(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    measured = {variant.name: variant.measured for variant in manifest.variants}
    assert tuple(measured) == ENGINES
    assert [figures.agreement for figures in measured.values() if figures] == [1.0] * len(ENGINES)
    errors = {name: figures.max_abs_error or 0.0 for name, figures in measured.items() if figures}
    bounds = {name: ROUNDED.get((manifest.provenance["architecture"], name), EXACT) for name in ENGINES}
    assert {name: error for name, error in errors.items() if error > bounds[name]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ENGINES)
def test_the_golden_examples_hold_in_each_engine(bundle: Path, variant: str) -> None:
    with Predictor.load(bundle, variant=variant, strict=True) as predictor:
        golden = load_golden(predictor.bundle)
        assert len(golden.examples) >= 8
        assert compare(predictor, golden) == []
