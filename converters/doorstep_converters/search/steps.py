"""The stages of one choice: build, teach, train, convert, judge. Each is kept by the hash of its inputs."""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.bundle import Bundle
from doorstep.errors import DataError
from doorstep.files import write_atomic
from doorstep.tensors import Array
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.augment.prepare import augment_stage, read_corpus
from doorstep_converters.calibration_error import fit_temperature
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint
from doorstep_converters.data import DataSet, load_data
from doorstep_converters.evaluation import label_places
from doorstep_converters.gates import Exam, Gates, exam_rows, judge, plan_exam
from doorstep_converters.job import Report
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Watch
from doorstep_converters.search.front import Judged, Point
from doorstep_converters.search.latency import factor, is_measured_here, rate_here
from doorstep_converters.search.order import Order
from doorstep_converters.search.space import Choice, PruneSpec
from doorstep_converters.slices import read_slices
from doorstep_converters.stages import Output, Stage
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks import find_craft
from doorstep_converters.variants import Workbench

_ANY = Bound(agreement=0.0, drop=100.0)  # a search weighs what a variant loses; convert need not
_TIMED = 64  # tokens of the text that latency is measured on
_FEWEST = 20  # texts of dev on which accuracy says something
_TRANSFORMS, _COPIES = ("neighbours", "splice", "typo"), 1.0
_RATE = 2e-3  # ordinary learning rate of a small student
_LENGTH = 128  # tokens of a text that students learn from


@dataclass(frozen=True, slots=True)
class Cost:
    """What one stage cost, now or when it was made.

    Attributes:
        is_kept: it was made before and cost nothing now.
    """

    stage: str
    seconds: float
    peak_rss_mib: float | None
    is_kept: bool


@dataclass(slots=True)
class Steps:
    """Everything the choices of one search share.

    Attributes:
        exams: split to its exam; taught: split to the teacher's probabilities on the clean texts.
        rate: fp32 multiply-adds of one core here in 10^9 a second; None where the target is of this machine's kind.
    """

    order: Order
    bench: Workbench
    watch: Watch
    data: DataSet
    teacher: Checkpoint
    places: dict[str, int]
    exams: dict[str, Exam] = field(default_factory=dict)
    taught: dict[str, Array] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None
    costs: list[Cost] = field(default_factory=list)

    @classmethod
    def prepare(cls, order: Order, bench: Workbench, watch: Watch, device: Any) -> "Steps":
        """Read the data, train the teacher where it has no head, and ask it.

        Raises:
            DataError: no data, or too little to learn from and to compare on.
        """
        job = order.job
        if job.data is None:
            raise DataError(
                "budget: a search needs labelled texts to learn from and to compare on; give them with --data"
            )
        data = load_data(job.data, job.columns)
        _check_splits(data)
        source = find_checkpoint(job.checkpoint, is_pickle_allowed=job.is_pickle_allowed)
        teacher = find_craft("text-classification").learn(job, source, data, bench)
        places = label_places(data, teacher.labels or ())
        steps = cls(order, bench, watch, data, teacher, places)
        slices = read_slices(job.data, order.slice_column, job.columns.text) if order.slice_column else {}
        for split in ("dev", "test") if data.test else ("dev",):
            steps.exams[split] = plan_exam(exam_rows(data, split, job.eval_limit), places, slices, order.seed)
            steps.taught[split] = steps._ask_teacher(split)
        if not is_measured_here(job.target, device):
            steps.rate = rate_here()
        return steps

    def teacher_accuracy(self, split: str = "dev") -> float:
        """Return the teacher's share of right labels."""
        truth = np.asarray(self.exams[split].truth)
        return float((self.taught[split].argmax(axis=1) == truth).mean())

    def run(self, stage: Stage) -> Output:
        """Run one stage on all cores and note what it cost."""
        output = self.bench.run(stage, threads=self.bench.cores)
        seconds, peak = output.result.get("seconds", 0.0), output.result.get("peak_rss_mib")
        self.costs.append(Cost(stage.name, float(seconds), peak, output.is_cached))
        return output

    def build(self, choice: Choice) -> Output:
        """Make the untrained student, or the pruned teacher."""
        if choice.is_pruned:
            return self._prune(PruneSpec.from_name(choice.student))
        spec = StudentSpec.from_name(choice.student)
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "spec": asdict(spec),
            "texts": str(self._texts()),
            "labels": list(self.teacher.labels or ()),
            "seed": self.order.seed,
        }
        inputs = (self.teacher.digest, self.data.digest)
        return self.run(
            Stage(f"student-{choice.student}", "doorstep_converters.students.build:make", arguments, inputs)
        )

    def train(self, choice: Choice, student: Output, steps: int) -> Output:
        """Teach the student for so many updates of its weights; 0 until its corpus is learnt."""
        taught = self._teach(choice.is_augmented)
        options = {
            "max_steps": steps,
            "seed": self.order.seed,
            "max_length": self._length(),
            "learning_rate": _RATE * choice.rate,
        }
        if choice.is_pruned and (zeros := PruneSpec.from_name(choice.student).zeros):
            options["zeros"] = zeros / 100
        arguments = {
            "student": str(student.folder / "checkpoint"),
            "taught": str(taught.folder),
            "data": str(self._pairs()),
            "options": options,
            "resume": self._unfinished("train", student.digest, taught.digest, str(options)),
        }
        name = f"train-{choice.name}-{steps or 'all'}"
        return self.run(Stage(name, "doorstep_converters.distill:train", arguments, (student.digest, taught.digest)))

    def measure(self, choice: str, checkpoint: Path, variants: tuple[str, ...]) -> Judged:
        """Convert a trained student and judge each variant on dev."""
        report = self.convert(checkpoint, choice, variants)
        lost = {one.plan.name: one.failure for one in report.candidates if one.failure}
        lost |= {name: reason for name, reason in report.excluded.items() if name in variants}
        if report.bundle is None or report.manifest is None:
            return Judged((), lost)
        points = []
        for variant in report.manifest.variants:
            gates = self.judge(report.bundle, variant.name, "dev")
            figures = {**self._sizes(report.bundle, variant.name), **_gate_figures(gates)}
            figures |= self._times(variant.name, variant.measured)
            is_here = "measured" if self.rate is None else "modelled"
            points.append(Point(choice, variant.name, figures, str(checkpoint), is_here))
        return Judged(tuple(points), lost)

    def convert(self, checkpoint: Path, name: str, variants: tuple[str, ...]) -> Report:
        """Convert a student into a bundle inside the cache."""
        place = hashlib.sha256(json.dumps([str(checkpoint), variants]).encode()).hexdigest()[:24]
        job = replace(
            self.order.job,
            checkpoint=str(checkpoint),
            out=self.order.job.cache / "search" / "bundles" / place,
            name="candidate",
            variants=variants,
            bound=_ANY,
            key=None,
            training=replace(self.order.job.training, is_forced=False),
        )
        report = convert(job, _Prefixed(self.watch, name))
        for stage, (seconds, is_kept) in report.stages.items():
            self.costs.append(Cost(f"{name}: {stage}", seconds, None, is_kept))
        return report

    def judge(self, bundle: Path, variant: str, split: str, temperature: float | None = None) -> Gates:
        """Judge a variant of a bundle in its own engine; without a temperature it is fitted on these very texts."""
        exam = self.exams[split]
        got = self._answers(bundle, variant, split)
        if temperature is None:
            temperature = fit_temperature(got[: len(exam.truth)], exam.truth)
        return judge(exam, self.teacher.labels or (), got, self.taught[split], temperature)

    def temperature(self, bundle: Path, variant: str) -> float:
        """Fit the temperature of a variant on dev."""
        exam = self.exams["dev"]
        return fit_temperature(self._answers(bundle, variant, "dev")[: len(exam.truth)], exam.truth)

    def smallest(self, student: Output) -> int:
        """Return the bytes below which no variant of a student comes: half a byte a weight, and its tokenizer."""
        folder = student.folder / "checkpoint"
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        return weights // 8 + (folder / "tokenizer.json").stat().st_size // 2

    def _answers(self, bundle: Path, variant: str, split: str) -> Array:
        opened = Bundle.open(bundle)
        digests = [entry.sha256 for entry in opened.manifest.files if entry.path.startswith(f"variants/{variant}/")]
        texts = self._file(f"{split}.json", list(self.exams[split].texts))
        arguments = {"bundle": str(bundle.resolve()), "variant": variant, "texts": str(texts)}
        inputs = (*digests, str(opened.manifest.options), json.dumps(self.exams[split].texts))
        stage = Stage(f"judge-{split}-{variant}", "doorstep_converters.parity:answer", arguments, inputs)
        found: Array = np.load(self.run(stage).folder / "probabilities.npy", allow_pickle=False)
        return found

    def _ask_teacher(self, split: str) -> Array:
        exam = self.exams[split]
        clean = list(exam.texts[: len(exam.truth)])
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "texts": str(self._file(f"teacher-{split}.json", clean)),
            "max_length": self.teacher.max_length,
            "timed": _TIMED,
        }
        stage = Stage(
            f"teacher-{split}",
            "doorstep_converters.search.jobs:answer",
            arguments,
            (self.teacher.digest, json.dumps(clean)),
        )
        output = self.run(stage)
        self.reference = self.reference or output.result
        found: Array = np.load(output.folder / "probabilities.npy", allow_pickle=False)
        return found

    def _prune(self, spec: PruneSpec) -> Output:
        """Prune layers, heads, width and vocabulary, in this order: what is gone need not be weighed."""
        room, data, length = "doorstep_converters.prune", str(self._pairs()), self._length()
        planned: list[tuple[str, dict[str, Any]]] = []
        if spec.layers:
            planned.append(("layers", {"data": data, "keep": spec.layers, "max_length": length}))
        if spec.heads < 100:
            planned.append(("heads", {"data": data, "keep": spec.heads / 100, "max_length": length}))
        if spec.width < 100:
            planned.append(("width", {"data": data, "keep": spec.width / 100, "max_length": length}))
        planned.append(("vocabulary", {"texts": str(self._texts()), "size": spec.vocabulary}))
        folder, digest, output = self.teacher.folder, self.teacher.digest, None
        for part, arguments in planned:
            arguments["checkpoint"] = str(folder.resolve())
            output = self.run(Stage(f"prune-{part}", f"{room}.{part}:prune", arguments, (digest, self.data.digest)))
            folder, digest = output.folder / "checkpoint", output.digest
        assert output is not None  # noqa: S101 -- the vocabulary is always pruned
        return output

    def _teach(self, is_augmented: bool) -> Output:
        corpus = self._corpus(is_augmented)
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "corpus": str(corpus),
            "max_length": self._length(),
        }
        inputs = (self.teacher.digest, hashlib.sha256(corpus.read_bytes()).hexdigest())
        arguments["resume"] = self._unfinished("teach", *inputs)
        name = "teach-augmented" if is_augmented else "teach"
        return self.run(Stage(name, "doorstep_converters.teach:answer", arguments, inputs))

    def _corpus(self, is_augmented: bool) -> Path:
        rows = [json.dumps({"text": row.text, "label": row.label}) for row in self.data.train]
        if is_augmented:
            made = self.run(augment_stage(self.data, self._augmentation(), self.order.seed, self.bench.work))
            rows += [json.dumps({"text": row.text, "label": row.label}) for row in read_corpus(made.folder)]
        path = self.bench.work / ("augmented.jsonl" if is_augmented else "corpus.jsonl")
        write_atomic(path, "".join(f"{row}\n" for row in rows).encode())
        return path

    def _augmentation(self) -> AugmentPlan:
        """Return what the user asked for, else what needs nothing but the data and the teacher."""
        return self.order.job.augment or AugmentPlan(_TRANSFORMS, _COPIES, teacher=str(self.teacher.folder.resolve()))

    def _texts(self) -> Path:
        return self._file("texts.json", [row.text for row in self.data.train])

    def _pairs(self) -> Path:
        pairs = {split: [[row.text, row.label] for row in getattr(self.data, split)] for split in ("train", "dev")}
        return self._file("pairs.json", pairs)

    def _file(self, name: str, value: Any) -> Path:
        path = self.bench.work / name
        if not path.exists():
            write_atomic(path, json.dumps(value).encode())
        return path

    def _unfinished(self, *parts: str) -> str:
        """Return a folder that a killed stage goes on from."""
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        folder = (self.order.job.cache / "search" / "unfinished" / name).resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _length(self) -> int:
        return min(self.order.job.max_length or _LENGTH, self.teacher.max_length)

    def _sizes(self, bundle: Path, variant: str) -> dict[str, float | None]:
        sizes = device_bytes(bundle, variant)
        return {"size": float(sizes[0]), "download": float(sizes[1])}

    def _times(self, variant: str, measured: Any) -> dict[str, float | None]:
        slower = 1.0 if self.rate is None else factor(self.order.job.target, variant, self.rate)
        times = {"p50": measured.p50_ms, "p95": measured.p95_ms, "cold": measured.cold_start_ms}
        scaled: dict[str, float | None] = {
            name: None if ms is None else round(slower * ms, 4) for name, ms in times.items()
        }
        return {**scaled, "rss": measured.peak_rss_mib}


def device_bytes(bundle: Path, variant: str) -> list[int]:
    """Return the bytes a device holds for one variant, tokenizer included, and the same deflated."""
    manifest = Bundle.open(bundle).manifest
    own = next(found for found in manifest.variants if found.name == variant)
    paths = [bundle / path for path in (*own.files, str(manifest.options.get("tokenizer", "tokenizer.json")))]
    held = [path for path in paths if path.is_file()]
    return [sum(path.stat().st_size for path in held), sum(len(zlib.compress(path.read_bytes(), 6)) for path in held)]


def _gate_figures(gates: Gates) -> dict[str, float | None]:
    names = ("accuracy", "drop", "macro_f1", "agreement", "slice_gap", "noise_drop", "ece", "worst_class")
    return {name: getattr(gates, name) for name in names}


def _check_splits(data: DataSet) -> None:
    if data.has_sets:
        raise DataError(
            f"{data.source}: rows name several labels, and students learn one label a text; convert without --budget"
        )
    if not data.train:
        raise DataError(f"{data.source}: no training split to teach students with; expected rows with split train")
    if len(data.dev) < _FEWEST:
        raise DataError(
            f"{data.source}: its dev split has {len(data.dev)} texts, and candidates are compared on {_FEWEST} "
            "or more; add rows, or name more of them dev in a column 'split'"
        )


@dataclass(frozen=True, slots=True)
class _Prefixed:
    """A watch that names the choice in front of each stage."""

    watch: Watch
    name: str

    def stage(self, name: str) -> Any:
        return self.watch.stage(f"{self.name}: {name}")

    def done(self, name: str, is_cached: bool) -> None:
        self.watch.done(f"{self.name}: {name}", is_cached)

    def note(self, name: str, text: str) -> None:
        self.watch.note(f"{self.name}: {name}", text)
