"""The port between the one way of a convert and each task: what is learnt, asked, compared and shown.

A task of its own subclasses `Craft` and says how its data is read, its checkpoint loaded and its answers given; the
stages, the engines, the recipes, the proof and the packing are the same for all.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from doorstep.errors import UsageError
from doorstep.golden import Example, best, max_error
from doorstep.manifest import Measured, Variant
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import read_records
from doorstep_converters.evaluation import Evaluation, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.pack import variant_of
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import CONTROLLED, VariantPlan
from doorstep_converters.sources import source_digest
from doorstep_converters.stages import Output, Stage

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

Answers = Any  # a list, or an array [items, ...]
"""One entry an item: name to number, as `doorstep.golden.flatten` gives them."""

_CALIBRATION = 100
_GOLDEN = 16


class Timed(NamedTuple):
    """What latency is measured on: a raw item, options that replace the bundle's, tokens it has."""

    item: Any
    task_options: dict[str, Any]
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a checkpoint answered.

    Attributes:
        answers: one flat dict of numbers an item.
        options: task options that were decided while answering.
        feeds: calibration feeds, each with a batch of one.
        card: Markdown that is put behind the model card.
        notes: what the person who converts shall be told.
    """

    answers: list[dict[str, float]]
    options: dict[str, Any] = field(default_factory=dict)
    feeds: tuple[Mapping[str, Any], ...] = ()
    card: str = ""
    notes: tuple[str, ...] = ()


class GoldenChoice(NamedTuple):
    """Golden examples: their places among the evaluation items, and the media they name in the bundle."""

    places: list[int]
    examples: list[Example]
    files: Mapping[str, Path] = {}


class Settled(NamedTuple):
    """The craft that judges, and options it adds."""

    craft: "Craft"
    options: dict[str, Any]


class Craft:
    """How the workshop handles one task. Methods marked (worker) run in a stage's process and may import torch."""

    task = ""
    metric = "accuracy"
    """What `Parity.accuracy` is for this task."""
    is_scored = True
    """Whether the largest number of the graph's first output is the answer."""
    most_numbers = 512
    """Longer answers make no golden example."""
    methods: Sequence[str] | None = ("full",)
    """Ways of fine-tuning that `train` knows; None where whoever trains says so itself."""
    is_taught = False
    """Whether what is trained may learn from a teacher."""
    transforms: tuple[str, ...] | None = ()
    """Transforms of `augment.plan` that training can make more items by; None for all."""

    # What stands on disk

    def find(self, job: "Job") -> Checkpoint:
        """Find and check the checkpoint.

        Raises:
            CheckpointError: it is none, or not one for this task.
        """
        raise NotImplementedError

    def read(self, job: "Job") -> Any:
        """Read the job's data, None where it names none.

        Raises:
            DataError: it cannot be read, or does not fit the task.
        """
        return read_records(job.data) if job.data else None

    def check_training(self, job: "Job") -> None:
        """Refuse a way of training that this task has not, before any work.

        Raises:
            UsageError: a teacher for what learns from none, or a method that it does not know.
        """
        asked = job.training
        if asked.teacher and not self.is_taught:
            raise UsageError(f"--teacher {asked.teacher}: {self.task} learns from no teacher here; leave it out")
        if self.methods is not None and asked.method not in self.methods:
            known = " or ".join(self.methods)
            raise UsageError(f"--finetune {asked.method}: {self.task} knows {known} alone; leave it out")
        made = job.augment.transforms if job.augment else ()
        if self.transforms is not None and (unknown := [name for name in made if name not in self.transforms]):
            known = f"{' and '.join(self.transforms)} alone" if self.transforms else "no augmentation"
            raise UsageError(f"--augment {unknown[0]}: {self.task} knows {known}; leave it out")

    def learn(self, job: "Job", source: Checkpoint, data: Any, bench: "Workbench") -> Checkpoint:
        """Return `source`, or what training made of it where it has no head for this data."""
        return source

    # What is asked

    def plan(self, job: "Job", data: Any, checkpoint: Checkpoint) -> Evaluation:
        """Choose evaluation and calibration items; the two share none."""
        raise NotImplementedError

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the task's options for the bundle, as far as the checkpoint says them."""
        return {}

    def longest(self, options: dict[str, Any]) -> int:
        """Return how long an item's open axis may be, for engines of fixed shapes; 0 where none is open."""
        return int(options.get("max_length", 0))

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Return inputs and outputs of the exported graph; integers as int64."""
        raise NotImplementedError

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        """Load the checkpoint as exporters need it (worker)."""
        raise NotImplementedError

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        """Answer items with the checkpoint itself and write the files all variants share to `out` (worker).

        Args:
            plan: `options`, `calibration` (items), `corpus`, `max_length` (tokens the checkpoint reads), `progress`.
        """
        raise NotImplementedError

    def train(self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
        """Train and write a checkpoint to `out` (worker); returns plain figures."""
        raise NotImplementedError

    def refusal(self, plan: VariantPlan, checkpoint: Checkpoint) -> str:
        """Return why a variant is not worth trying; "" where it is."""
        if plan.recipe.endswith(CONTROLLED) and not self.is_scored:
            return "accuracy control compares the largest outputs, and this task's outputs are no scores"
        return ""

    # How it is judged

    def compare(self, expected: Answers, got: Answers, truth: Sequence[Any] | None) -> Parity:
        """Compare answers; `truth` has one entry an item, of the task's own making."""
        agreed = [best(one) == best(other) for one, other in zip(expected, got, strict=True)]
        error = max((max_error(one, other) for one, other in zip(expected, got, strict=True)), default=0.0)
        figure = reference = None
        if truth is not None:
            figure, reference = self.figure(got, truth), self.figure(expected, truth)
        return Parity(
            len(agreed), float(np.mean(agreed)) if agreed else 1.0, error, figure, reference, None, self.metric
        )

    def figure(self, answers: Answers, truth: Sequence[Any]) -> float:
        """Return the task's metric (0 to 1, higher is better)."""
        raise NotImplementedError

    def failure(self, plan: VariantPlan, parity: Parity, bound: Bound) -> str:
        """Return why a variant must not be packed; "" where it may."""
        return parity.failure(bound)

    def error(self, expected: Sequence[Any], got: Sequence[Any]) -> float:
        """Return the largest difference of a value."""
        return max((max_error(one, other) for one, other in zip(expected, got, strict=True)), default=0.0)

    # How it is shown

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        """Choose what latency is measured on: the item of median size."""
        ordered = sorted(evaluation.items[evaluation.probes :] or evaluation.items, key=lambda item: len(str(item)))
        return Timed(ordered[len(ordered) // 2], {})

    def golden(self, trial: "Trial", found: Sequence[Answers]) -> GoldenChoice:
        """Choose golden examples: places that all variants answer alike, spread evenly, and what was expected.

        Args:
            found: the answers of every packed variant.
        """
        usable = [
            place
            for place, answer in enumerate(trial.expected)
            if all(best(other[place]) == best(answer) for other in found) and len(answer) <= self.most_numbers
        ]
        places = thin(usable, _GOLDEN)
        examples = [self.example(trial.evaluation.items[place], trial.expected[place], place) for place in places]
        files = {
            example.item["file"]: Path(trial.evaluation.items[place]["file"])
            for place, example in zip(places, examples, strict=True)
            if is_file_item(example.item)
        }
        return GoldenChoice(places, examples, files)

    def example(self, item: Any, expected: Mapping[str, float], place: int) -> Example:
        """Return one golden example; media go into the bundle's folder `golden`."""
        if is_file_item(item):
            item = {"file": f"golden/{place:04d}{Path(item['file']).suffix}"}
        return Example(item, {name: round(float(value), 6) for name, value in expected.items()})

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        """Return what else shall stand in the model card, by name."""
        return {}

    def variant(self, plan: VariantPlan, folder: Path, measured: Measured | None = None) -> Variant:
        """Describe a variant of a checkpoint `folder`."""
        return variant_of(plan, *self.specs(folder), measured)

    # The stages

    def reference(self, work: Path, checkpoint: Checkpoint, evaluation: Evaluation, options: dict[str, Any]) -> Stage:
        """Return the stage that asks the checkpoint."""
        items = work / "items.json"
        items.write_text(json.dumps(list(evaluation.items)), encoding="ascii")
        calibration = work / "calibration-items.json"
        calibration.write_text(json.dumps(list(evaluation.calibration)), encoding="ascii")
        corpus = work / "corpus.json"
        corpus.write_text(json.dumps(list(evaluation.corpus)), encoding="ascii")
        arguments = {
            "task": self.task,
            "checkpoint": str(checkpoint.folder.resolve()),
            "items": str(items),
            "corpus": str(corpus),
            "calibration": str(calibration),
            "options": options,
            "max_length": checkpoint.max_length,
        }
        return Stage(
            "reference",
            "doorstep_converters.tasks.stages:reference",
            arguments,
            (checkpoint.digest, evaluation.digest, self.source_digest()),
        )

    def decided(self, reference: Output) -> dict[str, Any]:
        """Return the options that the reference stage decided."""
        options: dict[str, Any] = reference.result["options"]
        return options

    def settled(self, expected: Answers, evaluation: Evaluation, options: dict[str, Any]) -> "Settled":
        """Return who judges from now on, and the options that the checkpoint's answers on dev decide."""
        return Settled(self, {})

    def shared(self, reference: Output) -> dict[str, Path]:
        """Map paths in the bundle to the files all variants share."""
        root = reference.folder / "shared"
        return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}

    parity_job = "doorstep_converters.tasks.stages:parity"

    def read_answers(self, folder: Path) -> Answers:
        """Read what a reference or parity stage wrote."""
        answers: Answers = json.loads((folder / "answers.json").read_text(encoding="ascii"))
        return answers

    def export_arguments(self) -> dict[str, Any]:
        """Return what export jobs need beyond the checkpoint."""
        return {"task": self.task}

    def source_digest(self) -> str:
        """Return a digest of this task's own code and of ours that it imports, so that kept stages follow them."""
        module, name = Path(inspect.getfile(type(self))), type(self).__module__
        digest = hashlib.sha256()
        for path in sorted(module.parent.glob(f"{module.stem}*.py")):
            digest.update(path.read_bytes())
            if name.startswith("doorstep_converters."):
                digest.update(source_digest(f"{name.rpartition('.')[0]}.{path.stem}").encode())
        return digest.hexdigest()

    def run_training(
        self,
        bench: "Workbench",
        checkpoint: Checkpoint | None,
        data: Any,
        options: dict[str, Any],
        more: Sequence[str] = (),
    ) -> Output:
        """Run `train` as a stage of its own; `more` names what of the data it needs beside train and dev."""
        path = bench.work / "training.json"
        path.write_text(json.dumps({name: getattr(data, name) for name in ("train", "dev", *more)}), encoding="ascii")
        arguments = {
            "task": self.task,
            "checkpoint": str(checkpoint.folder.resolve()) if checkpoint else "",
            "data": str(path),
            "options": options,
        }
        inputs = (checkpoint.digest if checkpoint else "", data.digest, self.source_digest())
        return bench.run(Stage("train", "doorstep_converters.tasks.stages:train", arguments, inputs), bench.cores)


def is_file_item(item: Any) -> bool:
    """Tell whether an item is `{"file": path}`."""
    return isinstance(item, dict) and item.keys() == {"file"}


def calibration_items(rows: Sequence[Any]) -> tuple[Any, ...]:
    """Thin training items to what calibration needs."""
    return tuple(thin(rows, _CALIBRATION))
