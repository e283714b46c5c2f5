"""Ways of training that a task has not are refused, not ignored."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep.errors import UsageError
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines


def _convert(checkpoint: str, out: Path, cache: Path, task: str, training: Training) -> Report:
    return convert(Job(checkpoint, "x86-64-vnni", out, task=task, cache=cache, training=training), Lines())


UNTAUGHT = ("sentence-similarity", "search", "text-ranking", "image-feature-extraction")
ONE_WAY = (
    "token-classification", "next-item", "tabular-classification", "audio-classification",
    "automatic-speech-recognition",
)  # fmt: skip


@pytest.mark.parametrize("task", UNTAUGHT)
def test_a_task_that_learns_from_no_teacher_says_so(task: str, encoder_only: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--teacher new:trees: {task} learns from no teacher"):
        _convert(str(encoder_only), tmp_path, tmp_path / "cache", task=task, training=Training(teacher="new:trees"))


@pytest.mark.parametrize("task", [*UNTAUGHT, *ONE_WAY, "image-classification"])
def test_a_task_that_knows_one_way_of_training_refuses_others(task: str, encoder_only: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--finetune lora: {task} knows full"):
        _convert(str(encoder_only), tmp_path, tmp_path / "cache", task=task, training=Training(method="lora"))


@pytest.mark.parametrize("task", [*UNTAUGHT, *ONE_WAY, "image-classification"])
def test_a_task_that_makes_no_such_items_refuses_to_augment(task: str, encoder_only: Path, tmp_path: Path) -> None:
    job = Job(
        str(encoder_only), "x86-64-vnni", tmp_path, task=task, cache=tmp_path / "cache", augment=AugmentPlan(("typo",))
    )
    with pytest.raises(UsageError, match=f"--augment typo: {task} knows"):
        convert(job, Lines())


@pytest.mark.parametrize("training", [Training(teacher="new:cnn-16w-16f"), Training(method="head")])
def test_a_checkpoint_with_a_head_is_not_said_to_have_been_taught(
    training: Training, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has a head already, so nothing is trained"):
        _convert(
            str(make_checkpoint("bert")), tmp_path, tmp_path / "cache", task="text-classification", training=training
        )
