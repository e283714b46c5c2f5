"""The stages of one choice: build, teach, train, convert, judge. Each is kept by the hash of its inputs."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.bundle import Bundle
from doorstep.errors import ConversionError, DataError
from doorstep.files import write_atomic
from doorstep.session import RUNTIMES
from doorstep.tensors import Array
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.augment.prepare import CORPUS, augment_stage, read_corpus
from doorstep_converters.calibration_error import fit_temperature
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint
from doorstep_converters.data import DataSet, load_data
from doorstep_converters.evaluation import label_places
from doorstep_converters.gates import Exam, Gates, exam_rows, judge, plan_exam
from doorstep_converters.job import Cost, Report
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, require_nothing_learnt
from doorstep_converters.progress import Watch
from doorstep_converters.search.figures import Meter, digests_of, gate_figures
from doorstep_converters.search.front import Judged, Point
from doorstep_converters.search.order import Order
from doorstep_converters.search.pruning import prune
from doorstep_converters.search.space import Choice, PruneSpec
from doorstep_converters.slices import read_slices
from doorstep_converters.sources import source_digest
from doorstep_converters.stages import Output, Stage, file_digest
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks import find_craft
from doorstep_converters.unlabelled import read_texts, without_leaks
from doorstep_converters.variants import Workbench

_ANY = Bound(agreement=0.0, drop=100.0)  # a search weighs what a variant loses; convert need not
_TIMED = 64  # tokens of the text that latency is measured on
_FEWEST = 20  # texts of dev on which accuracy says something
_TRANSFORMS, _COPIES = ("neighbours", "splice", "typo+sku"), 1.0
_RATE = 2e-3  # ordinary learning rate of a small student
_LENGTH = 128  # tokens of a text that students learn from


@dataclass(slots=True)
class Steps:
    """Everything the choices of one search share.

    Attributes:
        exams: split to its exam; taught: split to the teacher's probabilities on the clean texts.
        costs: of every stage of the search, whoever ran it.
    """

    order: Order
    bench: Workbench
    watch: Watch
    data: DataSet
    teacher: Checkpoint
    places: dict[str, int]
    meter: Meter
    exams: dict[str, Exam] = field(default_factory=dict)
    taught: dict[str, Array] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)

    @classmethod
    def prepare(cls, order: Order, bench: Workbench, watch: Watch, device: Any) -> "Steps":
        """Read the data, train the teacher where it has no head, and ask it.

        Raises:
            DataError: no data, or too little to learn from and to compare on.
            UsageError: the teacher has a head already, and the job says how to train one.
        """
        job = order.job
        if job.data is None:
            raise DataError(
                "budget: a search needs labelled texts to learn from and to compare on; give them with --data"
            )
        data = load_data(job.data, job.columns)
        _check_splits(data)
        if job.unlabelled is not None:
            next(read_texts(job.unlabelled, job.columns.text), None)  # a wrong file is told before any work
        meter = Meter.find(job.target, order.measure_on, device)
        source = find_checkpoint(job.checkpoint, is_pickle_allowed=job.is_pickle_allowed)
        alone = replace(job, augment=None)  # made texts are for the students
        teacher = find_craft("text-classification").learn(alone, source, data, bench)
        if teacher is source:
            require_nothing_learnt(alone)
        places = label_places(data, teacher.labels or ())
        steps = cls(order, bench, watch, data, teacher, places, meter, costs=bench.costs)
        slices = read_slices(job.data, order.slice_column, job.columns.text) if order.slice_column else {}
        for split in ("dev", "test") if data.test else ("dev",):
            steps.exams[split] = plan_exam(exam_rows(data, split, job.eval_limit), places, slices, order.seed)
            steps.taught[split] = steps._ask_teacher(split)
        return steps

    def teacher_accuracy(self, split: str = "dev") -> float:
        """Return the teacher's share of right labels."""
        truth = np.asarray(self.exams[split].truth)
        return float((self.taught[split].argmax(axis=1) == truth).mean())

    def run(self, stage: Stage) -> Output:
        """Run one stage on all cores."""
        return self.bench.run(stage, threads=self.bench.cores)

    def build(self, choice: Choice) -> Output:
        """Make the untrained student, or the pruned teacher."""
        if choice.is_pruned:
            read = (self.teacher.digest, self.teacher.licence)
            spec = PruneSpec.from_name(choice.student)
            return prune(spec, self.teacher.folder, read, self._pairs(), self._texts(), self._length(), self.run)
        small, texts = StudentSpec.from_name(choice.student), self._texts()
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "spec": asdict(small),
            "texts": str(texts),
            "labels": list(self.teacher.labels or ()),
            "seed": self.order.seed,
        }
        inputs = (self.teacher.digest, self.teacher.licence, file_digest(texts))
        return self.run(
            Stage(f"student-{choice.student}", "doorstep_converters.students.build:make", arguments, inputs)
        )

    def train(self, choice: Choice, student: Output, steps: int) -> Output:
        """Teach the student for so many updates of its weights; 0 until its corpus is learnt."""
        taught, pairs = self._teach(choice), self._pairs()
        options = {
            **self.order.teaching.options(choice.has_attention),
            "max_steps": steps,
            "seed": self.order.seed,
            "max_length": self._length(),
            "learning_rate": _RATE * choice.rate,
            "precision": self.order.job.training.precision,
        }
        if choice.is_pruned and (zeros := PruneSpec.from_name(choice.student).zeros):
            options["zeros"] = zeros / 100
        arguments = {
            "student": str(student.folder / "checkpoint"),
            "taught": str(taught.folder),
            "data": str(pairs),
            "options": options,
        }
        inputs = (student.digest, taught.digest, file_digest(pairs))
        name = f"train-{choice.name}-{steps or 'all'}"
        return self._run_on(Stage(name, "doorstep_converters.distill:train", arguments, inputs))

    def judged_by(self) -> list[Any]:
        """Return plain values that tell by what students of this search are taught and judged."""
        job, order = self.order.job, self.order
        values: list[Any] = [asdict(exam) for exam in self.exams.values()]
        values += [asdict(order.teaching), order.measure_on, job.unlabelled and file_digest(job.unlabelled)]
        values.append(job.training.precision)  # in which the teacher answers
        if any(choice.is_augmented for choice in self.order.choices()):
            plan = self._augmentation()
            values += [*self._augment().inputs, plan.transforms, plan.copies, plan.near, plan.sure]
        return values

    def measure(self, choice: str, student: Output, variants: tuple[str, ...]) -> Judged:
        """Convert a trained student and judge each variant on dev."""
        checkpoint = student.folder / "checkpoint"
        report = self.convert(checkpoint, choice, variants)
        lost = {one.plan.name: one.failure for one in report.candidates if one.failure}
        lost |= {name: reason for name, reason in report.excluded.items() if name in variants}
        if report.bundle is None or report.manifest is None:
            return Judged((), lost)
        points = []
        for variant in report.manifest.variants:
            try:
                measured = self.meter.figures(report.bundle, variant, self.run)
            except ConversionError as error:  # the device may lack this variant's engine
                self.meter.check_is_there()
                lost[variant.name] = str(error)
                continue
            figures = {**measured, **gate_figures(self.judge(report.bundle, variant.name, "dev"))}
            points.append(Point(choice, variant.name, figures, str(checkpoint), self.meter.where, student.digest))
        return Judged(tuple(points), lost)

    def convert(self, checkpoint: Path, name: str, variants: tuple[str, ...]) -> Report:
        """Convert a student into a bundle inside the cache."""
        place = hashlib.sha256(json.dumps([str(checkpoint), variants]).encode()).hexdigest()[:24]
        job = replace(
            self.order.job.of_finished(str(checkpoint)),
            out=self.order.job.cache / "search" / "bundles" / place,
            name="candidate",
            variants=variants,
            bound=_ANY,
            key=None,
        )
        report = convert(job, _Prefixed(self.watch, name))
        self.count(report, name)
        return report

    def count(self, report: Report, name: str) -> None:
        """Add what the stages of a convert cost, with `name` before each."""
        self.costs.extend(replace(cost, stage=f"{name}: {cost.stage}") for cost in report.costs)

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
        manifest = Bundle.open(bundle).manifest
        digests = digests_of(manifest, variant)
        runtime = next(found.runtime for found in manifest.variants if found.name == variant)
        texts = self._file(f"{split}.json", list(self.exams[split].texts))
        arguments = {"bundle": str(bundle.resolve()), "variant": variant, "texts": str(texts)}
        code = source_digest(RUNTIMES[runtime].module)
        inputs = (*digests, str(manifest.options), json.dumps(self.exams[split].texts), code)
        stage = Stage(f"judge-{split}-{variant}", "doorstep_converters.parity:answer", arguments, inputs, is_bare=True)
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

    def _teach(self, choice: Choice) -> Output:
        corpus = self._corpus(choice.is_augmented)
        extras = self.order.teaching.extras(choice.has_attention)
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "corpus": str(corpus),
            "max_length": self._length(),
            "extras": extras,
            "precision": self.order.job.training.precision,
        }
        name = "teach-augmented" if choice.is_augmented else "teach"
        inputs = (self.teacher.digest, file_digest(corpus))
        taught = self._run_on(Stage(name, "doorstep_converters.teach:answer", arguments, inputs))
        return self._join(name, taught, choice.is_augmented) if self.order.teaching.counts else taught

    def _join(self, name: str, taught: Output, is_augmented: bool) -> Output:
        """Let a second teacher, which counts words, answer as well."""
        pairs, made = self._pairs(), self.run(self._augment()) if is_augmented else None
        arguments = {
            "checkpoint": str(self.teacher.folder.resolve()),
            "taught": str(taught.folder),
            "data": str(pairs),
            "max_length": self._length(),
            "seed": self.order.seed,
            "made": str(made.folder / CORPUS) if made else "",
            "precision": self.order.job.training.precision,
        }
        inputs = (self.teacher.digest, taught.digest, file_digest(pairs), made.digest if made else "")
        return self.run(Stage(f"counts-{name}", "doorstep_converters.ensemble:join", arguments, inputs))

    def _corpus(self, is_augmented: bool) -> Path:
        """Write the texts students learn from, one after the other: labelled ones, made ones, unlabelled ones."""
        path = self.bench.work / ("augmented.jsonl" if is_augmented else "corpus.jsonl")
        if path.exists():
            return path
        job = self.order.job
        with open(path.with_suffix(".writing"), "w", encoding="ascii") as file:
            for row in self.data.train:
                file.write(_line(row.text, row.label))
            if is_augmented:
                made = self.run(self._augment())
                file.writelines(_line(row.text, row.label) for row in read_corpus(made.folder))
            if job.unlabelled is not None:
                held_out = [row.text for row in (*self.data.dev, *self.data.test)]
                texts = without_leaks(read_texts(job.unlabelled, job.columns.text), held_out)
                file.writelines(_line(text, None) for text in texts)
        path.with_suffix(".writing").replace(path)
        return path

    def _augment(self) -> Stage:
        job = self.order.job
        beside = (job.unlabelled, job.columns.text)
        return augment_stage(self.data, self._augmentation(), self.order.seed, self.bench.work, *beside)

    def _augmentation(self) -> AugmentPlan:
        """Return what the user asked for, else what needs nothing but the data; this teacher judges what is made."""
        plan = self.order.job.augment or AugmentPlan(_TRANSFORMS, _COPIES)
        precision = self.order.job.training.precision
        return replace(plan, teacher=str(self.teacher.folder.resolve()), precision=precision)

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

    def _run_on(self, stage: Stage) -> Output:
        """Run a stage that goes on, where it was killed, from what it left in a folder of its own."""
        folder = (self.order.job.cache / "search" / "unfinished" / stage.key).resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        return self.run(replace(stage, arguments={**stage.arguments, "resume": str(folder)}))

    def _length(self) -> int:
        return min(self.order.job.max_length or _LENGTH, self.teacher.max_length)


def _line(text: str, label: str | None) -> str:
    return json.dumps({"text": text, "label": label}) + "\n"


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
