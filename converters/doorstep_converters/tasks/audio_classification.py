"""audio-classification: recordings with a label, spoken commands for example."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import DataError
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.sound import SoundCraft
from doorstep_converters.tasks.sound_data import SoundData

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench


class AudioCraft(SoundCraft):
    """Answers are label to probability."""

    task = "audio-classification"
    head = "ForSequenceClassification"
    columns = ("label", "command", "class", "category")
    flag = "--label-column"

    def names(self, data: SoundData) -> tuple[list[str], int]:
        labels = {row["truth"] for rows in (data.train, data.dev, data.test) for row in rows}
        if len(labels) < 2:
            raise DataError(f"{data.source}: expected two or more labels, got {', '.join(labels)}")
        return sorted(labels, key=lambda label: (int(label) if label.isdecimal() else 0, label)), 0

    def check_truth(self, data: SoundData, checkpoint: Checkpoint) -> None:
        names = {row["truth"] for rows in (data.dev, data.test) for row in rows}
        if unknown := sorted(names - set(checkpoint.labels or ())):
            raise DataError(
                f"{data.source}: the checkpoint has no label {unknown[0]!r}; train a new head with --retrain"
            )

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        labels = list(checkpoint.labels or ())
        options = {**super().options(job, checkpoint), "labels": labels, "top_k": len(labels)}
        if job.display_names:
            options["display_names"] = job.display_names
        return options

    def flat(self, logits: Any, folder: Path, options: dict[str, Any]) -> dict[str, float]:
        from doorstep.tasks import softmax

        return dict(zip(options["labels"], map(float, softmax(logits)), strict=True))

    def figure(self, answers: Sequence[dict[str, float]], truth: Sequence[Any]) -> float:
        """Return the share of right labels."""
        right = sum(
            max(answer, key=lambda name: answer[name]) == name for answer, name in zip(answers, truth, strict=True)
        )
        return right / max(1, len(answers))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "segments")


CRAFT = AudioCraft()
