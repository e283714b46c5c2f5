"""text-classification: labelled texts, an encoder with a head, probabilities."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import DataError, UsageError
from doorstep.manifest import Measured, Variant
from doorstep.tensors import Array
from doorstep_converters.augment.prepare import augment_stage, read_corpus
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint, read_json
from doorstep_converters.data import DataSet, Row, load_data
from doorstep_converters.evaluation import Evaluation, choose_golden, golden_examples, plan_evaluation, write_texts
from doorstep_converters.finetune.stage import finetune_stage
from doorstep_converters.pack import text_variant
from doorstep_converters.parity import Parity, compare
from doorstep_converters.quantize.calibration import write_calibration
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.stages import Output, Stage
from doorstep_converters.tasks.craft import Craft, GoldenChoice, Settled, Timed
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.multi_label import METRIC, compare_sets, label_sets, threshold_row, tuned_thresholds

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench

_TIMED_LENGTH = 64  # tokens of the text that latency is measured on, where the bundle reads that many
_TOKEN_CHARACTERS = 10  # of a long token and the space before it, in scripts with spaces
_FIRST_DENSE, _DENSE_CHARACTERS = "\u0e00", 4  # from here on scripts say more in a character; of a long token


class TextClassification(Craft):
    """Answers are arrays of probabilities [items, classes] here."""

    task = "text-classification"
    parity_job = "doorstep_converters.parity:answer"
    methods = None
    is_taught = True
    transforms = None

    def find(self, job: "Job") -> Checkpoint:
        return find_checkpoint(job.checkpoint, is_pickle_allowed=job.is_pickle_allowed)

    def read(self, job: "Job") -> DataSet | None:
        return load_data(job.data, job.columns) if job.data else None

    def learn(self, job: "Job", source: Checkpoint, data: DataSet | None, bench: "Workbench") -> Checkpoint:
        """Return `source`, or what fine-tuning made of it where it has no head for these labels."""
        if source.labels is not None and not job.training.is_forced:
            return source
        if data is None:
            raise DataError(
                f"{source.source}: it has no classification head; give labelled texts with --data to train one"
            )
        if not data.train:
            raise DataError(f"{data.source}: no training split to learn from; expected rows with split train")
        extra = _augmented(job, data, bench)
        stage = finetune_stage(source, data, job.training, bench.work, extra, is_pickle_allowed=job.is_pickle_allowed)
        output = bench.run(stage, threads=bench.cores)
        trained = find_checkpoint(str(output.folder / "checkpoint"))
        return replace(trained, source=source.source, licence=trained.licence or source.licence)

    def plan(self, job: "Job", data: DataSet | None, checkpoint: Checkpoint) -> Evaluation:
        labels = checkpoint.labels or ()
        if data is not None and checkpoint.is_multi_label:
            return plan_evaluation(data, labels, job.eval_limit, lambda rows: label_sets(data, rows, labels))
        return plan_evaluation(data, labels, job.eval_limit)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        options: dict[str, Any] = {"labels": list(checkpoint.labels or ()), "is_multi_label": checkpoint.is_multi_label}
        if is_linear(checkpoint.folder):
            options["is_linear"] = True  # explanations may be exact
        options |= length_option(job, checkpoint)
        if job.temperature != 1.0:
            options["temperature"] = job.temperature
        if job.display_names:
            options["display_names"] = job.display_names
        return options

    def reference(self, work: Path, checkpoint: Checkpoint, evaluation: Evaluation, options: dict[str, Any]) -> Stage:
        texts = write_texts(work / "items.json", evaluation.items)
        samples = write_texts(work / "samples.json", evaluation.length_samples)
        write_calibration(work / "calibration.json", list(evaluation.calibration))
        arguments = {
            "checkpoint": str(checkpoint.folder.resolve()),
            "texts": str(texts),
            "length_texts": str(samples),
            "limit": checkpoint.max_length,
            "max_length": options.get("max_length"),
            "is_multi_label": checkpoint.is_multi_label,
        }
        inputs = (checkpoint.digest, evaluation.digest)
        return Stage("reference", "doorstep_converters.reference:answer", arguments, inputs)

    def decided(self, reference: Output) -> dict[str, Any]:
        return {"max_length": reference.result["max_length"]}

    def settled(self, expected: Array, evaluation: Evaluation, options: dict[str, Any]) -> Settled:
        if not options["is_multi_label"]:
            return Settled(self, {})
        labels = options["labels"]
        found = tuned_thresholds(expected, evaluation, labels) if evaluation.truth else {}
        return Settled(_SetClassification(threshold_row(found, labels)), {"thresholds": found})

    def shared(self, reference: Output) -> dict[str, Path]:
        return {"tokenizer.json": reference.folder / "tokenizer.json"}

    def read_answers(self, folder: Path) -> Array:
        answers: Array = np.load(folder / "probabilities.npy", allow_pickle=False)
        return answers

    def export_arguments(self) -> dict[str, Any]:
        return {}

    def compare(self, expected: Any, got: Any, truth: Sequence[int] | None) -> Parity:
        return compare(expected, got, truth)

    def error(self, expected: Sequence[Array], got: Sequence[Array]) -> float:
        return float(np.abs(np.asarray(expected) - np.asarray(got)).max())

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        return timed_text(evaluation, options)

    def golden(self, trial: "Trial", found: Sequence[Any]) -> GoldenChoice:
        places = choose_golden(trial.evaluation, trial.expected, found)
        labels = trial.options["labels"]
        return GoldenChoice(places, golden_examples(places, trial.evaluation, labels, trial.expected, trial.tokenizer))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "words")

    def variant(self, plan: VariantPlan, folder: Path, measured: Measured | None = None) -> Variant:
        return text_variant(plan, measured)


class _SetClassification(TextClassification):
    """Judges sets of labels by their thresholds [classes]."""

    metric = METRIC

    def __init__(self, thresholds: Array) -> None:
        self._thresholds = thresholds

    def compare(self, expected: Any, got: Any, truth: Sequence[Any] | None) -> Parity:
        return compare_sets(expected, got, truth, self._thresholds)


def _augmented(job: "Job", data: DataSet, bench: "Workbench") -> list[Row]:
    if job.augment is None:
        return []
    return read_corpus(bench.run(augment_stage(data, job.augment, job.training.seed, bench.work), bench.cores).folder)


def is_linear(folder: Path) -> bool:
    """Tell whether a checkpoint averages token vectors and has one linear layer behind: a static student, no head."""
    config = read_json(folder / "config.json")
    return config.get("model_type") == "doorstep-static" and config.get("head_width") == 0


def length_option(job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
    """Return `max_length` as the job asks for it; nothing where the data shall decide.

    Raises:
        UsageError: the checkpoint cannot read that many tokens.
    """
    if job.max_length is None:
        return {}
    if not 8 <= job.max_length <= checkpoint.max_length:
        raise UsageError(f"max-length: expected 8 to {checkpoint.max_length}, got {job.max_length}")
    return {"max_length": job.max_length}


def timed_text(evaluation: Evaluation, options: dict[str, Any]) -> Timed:
    """Join texts and cut them to the tokens that latency is measured on."""
    length = min(_TIMED_LENGTH, options["max_length"])
    item = " ".join(" ".join(text.split()) for text in evaluation.items[evaluation.probes :] or evaluation.items)
    return Timed(_beginning(item, length), {"max_length": length}, length)


def _beginning(text: str, length: int) -> str:
    """Return a part of `text` that makes `length` tokens and not many times more: to tokenize what is cut is work."""
    made = accumulate(1 / (_DENSE_CHARACTERS if one >= _FIRST_DENSE else _TOKEN_CHARACTERS) for one in text)
    return text[: 1 + sum(1 for _ in takewhile(lambda tokens: tokens < length, made))]


CRAFT = TextClassification()
