"""image-classification: a checkpoint with a head over pictures, probabilities that agree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import DataError
from doorstep.golden import Example, best
from doorstep.tasks import softmax
from doorstep.tensors import Array
from doorstep_converters.checkpoint import Checkpoint, find_picture_checkpoint
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.images import ImageCraft
from doorstep_converters.tasks.images_data import PictureData

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

_TOP = 100  # labels of an answer that are kept: of a thousand, the rest is noise
_SHOWN = 16  # of a golden example


class ImageClassificationCraft(ImageCraft):
    """Answers are label to probability, the most probable first."""

    task = "image-classification"
    auto = "AutoModelForImageClassification"
    methods = ("full", "head")
    is_taught = True

    def learn(self, job: "Job", source: Checkpoint, data: PictureData | None, bench: "Workbench") -> Checkpoint:
        training = job.training
        if source.labels is not None and not training.is_forced:
            return source
        if data is None or not data.train:
            raise DataError(
                f"{source.source}: it has no head for pictures; give labelled pictures with --data to train one"
            )
        options = {**asdict(training), "labels": data.labels}
        if source.is_new:
            options["new"] = source.source.removeprefix("new:")
        if training.teacher:
            teacher = find_picture_checkpoint(training.teacher)
            options |= {"teacher": str(teacher.folder.resolve()), "teacher_digest": teacher.digest}
        output = self.run_training(bench, None if source.is_new else source, data, options)
        trained = find_picture_checkpoint(str(output.folder / "checkpoint"))
        return replace(trained, source=source.source, licence=source.licence)

    def train(self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
        from doorstep_converters.tasks.images_training import train

        return train(out, channel, checkpoint, data, options)

    def plan(self, job: "Job", data: PictureData | None, checkpoint: Checkpoint) -> Evaluation:
        if data is not None and (unknown := sorted(set(data.labels) - set(checkpoint.labels or ()))):
            raise DataError(
                f"{data.source}: the checkpoint's head lacks {', '.join(unknown[:5])}; correct the labels, or give it "
                "a new head with --retrain"
            )
        return super().plan(job, data, checkpoint)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        options = {**super().options(job, checkpoint), "labels": list(checkpoint.labels or ())}
        if checkpoint.is_multi_label:
            options["is_multi_label"] = True
        if job.display_names:
            options["display_names"] = job.display_names
        return options

    def module(self, folder: Path, is_pickle_allowed: bool) -> Any:
        from doorstep_converters.tasks.images_model import Logits, load_model

        return Logits(load_model(folder, self.auto, is_pickle_allowed)).eval()

    def answers_of(self, rows: Array, options: Mapping[str, Any]) -> list[dict[str, float]]:
        scores = 1 / (1 + np.exp(-rows)) if options.get("is_multi_label") else softmax(rows)  # [items, classes]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
        labels = options["labels"]
        return [
            {labels[place]: float(row[place]) for place in places} for row, places in zip(scores, order, strict=True)
        ]

    def figure(self, answers: Sequence[Mapping[str, float]], truth: Sequence[Any]) -> float:
        return float(np.mean([best(answer) == label for answer, label in zip(answers, truth, strict=True)]))

    def example(self, item: Any, expected: Mapping[str, float], place: int) -> Example:
        return super().example(item, dict(list(expected.items())[:_SHOWN]), place)

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "tiles")


CRAFT = ImageClassificationCraft()
