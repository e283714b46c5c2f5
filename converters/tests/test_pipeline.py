"""The whole way on a small checkpoint: every variant, its proof, its report, and the second convert."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.cli.main import main
from doorstep.golden import compare, load_golden
from doorstep.signing import TrustKey, keygen
from doorstep_converters import sources
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.report import summary, write_report
from doorstep_converters.targets import TARGETS, find_target

pytestmark = pytest.mark.slow
ANY = Bound(agreement=0.0)  # a random tiny model has no margins; what is tested here is that every variant runs


@pytest.fixture(scope="module")
def report(encoder_only: Path, reviews: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("dist")
    key = out / "key.pem"
    keygen(key)
    training = Training(epochs=30, learning_rate=3e-3)
    job = Job(str(encoder_only), "x86-64", out, data=reviews, cache=cache, training=training, bound=ANY, key=key)
    made = convert(job, Lines())
    write_report(made, out)
    return made


@pytest.fixture
def bundle(report: Report) -> Path:
    assert report.bundle is not None
    return report.bundle


VARIANTS = tuple(plan.name for plan in find_target("x86-64").plans)


def test_every_variant_of_the_target_is_made(report: Report) -> None:
    assert {candidate.plan.name: candidate.failure for candidate in report.candidates} == dict.fromkeys(VARIANTS, "")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_answers_the_golden_examples(bundle: Path, variant: str) -> None:
    with Predictor.load(bundle, variant=variant, strict=True) as predictor:
        assert compare(predictor, load_golden(predictor.bundle)) == []


def test_the_bundle_is_signed_with_the_key(bundle: Path) -> None:
    trust = TrustKey.load(bundle.parent / "key.pem.pub")
    assert Bundle.open(bundle, trust=trust).signer


def test_no_calibration_or_training_text_is_held_out(report: Report, bundle: Path) -> None:
    provenance = Bundle.open(bundle).manifest.provenance
    assert "train" in provenance["data"]
    assert provenance["checkpoint_sha256"]


def test_the_page_shows_every_variant_and_its_pictures(report: Report, bundle: Path) -> None:
    page = (bundle.parent / f"{report.name}.report.html").read_text(encoding="utf-8")
    assert all(variant in page for variant in VARIANTS)
    assert page.count("<svg") == 6
    plain = json.loads((bundle.parent / f"{report.name}.report.json").read_text(encoding="utf-8"))
    assert [row["variant"] for row in plain["candidates"]] == list(VARIANTS)


def test_the_table_says_what_each_kind_of_device_would_choose(report: Report) -> None:
    text = summary(report)
    assert "arm64 (Cortex-A53, A72)" in text
    assert "would choose onnx-fp32" in text


def test_a_second_convert_computes_nothing_again(
    report: Report, encoder_only: Path, reviews: Path, cache: Path, tmp_path: Path
) -> None:
    training = Training(epochs=30, learning_rate=3e-3)
    job = Job(str(encoder_only), "x86-64", tmp_path, data=reviews, cache=cache, training=training, bound=ANY)
    again = convert(job, Lines())
    assert all(is_kept for _, is_kept in again.stages.values())


def test_a_damaged_kept_stage_is_computed_again(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    cache, variants = tmp_path / "cache", ("onnx-fp16",)
    job = Job(
        str(make_checkpoint("bert")), "x86-64", tmp_path, cache=cache, variants=variants, max_length=32, bound=ANY
    )
    convert(job, Lines())
    stage = next((cache / "stages").glob("quantize-onnx-fp16-*"))
    with open(stage / "model.onnx", "r+b") as file:
        file.write(b"damage")
    again = convert(job, Lines())
    assert not again.stages["quantize-onnx-fp16"][1]
    assert again.bundle is not None


CRASH = """
import os
import sys


class Crash:
    def find_spec(self, name, path=None, target=None):
        if name == "doorstep_converters.quantize.tflite":
            os.abort()


sys.meta_path.insert(0, Crash())
"""


def test_a_crashing_converter_takes_no_other_down(
    make_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checkpoint, out, variants = str(make_checkpoint("bert")), tmp_path / "dist", ("onnx-fp32", "tflite-int8")
    job = Job(checkpoint, "x86-64", out, cache=tmp_path / "cache", variants=variants, max_length=32, bound=ANY)
    report = convert(job, Lines())
    failures = {candidate.plan.name: candidate.failure for candidate in report.candidates}
    assert failures["onnx-fp32"] == ""
    assert "exit code -6" in failures["tflite-int8"]


def test_another_runtime_is_proven_and_timed_anew(
    make_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, variants = str(make_checkpoint("bert")), ("onnx-fp32",)
    job = Job(checkpoint, "x86-64", tmp_path, cache=tmp_path / "c", variants=variants, max_length=32, bound=ANY)
    convert(job, Lines())
    read = sources._source
    monkeypatch.setattr(
        sources, "_source", lambda name: read(name) + (b"#" if name == "doorstep_runtimes.onnx" else b"")
    )
    again = {cost.stage: cost.is_kept for cost in convert(job, Lines()).costs}
    assert [stage for stage, is_kept in again.items() if not is_kept] == ["parity-onnx-fp32", "measure-onnx-fp32"]


@pytest.mark.parametrize("target", ["x86-64", "x86-64-vnni", "arm64"])
def test_weights_use_all_eight_bits_on_every_target(
    target: str, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where products of them may overflow, the runtime sees to it: `runtimes/tests/test_overflow.py`."""
    checkpoint, variants = str(make_checkpoint("bert")), ("onnx-int8",)
    job = Job(checkpoint, target, tmp_path, cache=tmp_path / "c", variants=variants, max_length=32, bound=ANY)
    report = convert(job, Lines())
    assert report.bundle is not None
    graph = onnx.load(report.bundle / "variants/onnx-int8/model.onnx").graph
    weights = [numpy_helper.to_array(w) for w in graph.initializer if w.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(weight.astype(np.int32)).max()) for weight in weights) == 127


def test_weights_lie_beside_the_graph_where_the_engine_maps_them(
    make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint, variants = str(make_checkpoint("bert")), ("onnx-fp32", "onnx-int8", "onnx-int4-weights")
    job = Job(checkpoint, "x86-64", tmp_path, cache=tmp_path / "c", variants=variants, max_length=32, bound=ANY)
    report = convert(job, Lines())
    assert report.bundle is not None
    for name in variants:
        graph = report.bundle / f"variants/{name}/model.onnx"
        inside = onnx.load(graph, load_external_data=False).graph.initializer
        assert max(len(tensor.raw_data) for tensor in inside) < 128
        assert sum(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in inside) > 10


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_plan_and_says_what_it_leaves_out(target: str) -> None:
    found = find_target(target)
    assert found.plans
    assert not {plan.name for plan in found.plans} & found.excluded.keys()


def test_the_command_line_predicts_with_the_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(bundle), "--json", "我想买手机壳"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["scores"][0]["label"] in ("buy", "return", "ask", "complain")
