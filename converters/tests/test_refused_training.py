"""Ways of training that a task has not are refused, not ignored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep.errors import UsageError
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.budget import parse_budget
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.pipeline import convert, require_nothing_learnt
from doorstep_converters.progress import Lines
from doorstep_converters.search.order import Order
from doorstep_converters.search.run import search


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


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"training": Training(teacher="new:cnn-16w-16f")}, "--teacher new:cnn-16w-16f"),
        ({"training": Training(method="head")}, "--finetune head"),
        ({"training": Training(epochs=2)}, "--epochs 2"),
        ({"training": Training(learning_rate=1e-3)}, "--learning-rate 0.001"),
        ({"training": Training(mixup=0.2)}, "--mixup 0.2"),
        ({"training": Training(processes=2)}, "--processes 2"),
        ({"augment": AugmentPlan(("typo", "case"))}, "--augment typo,case"),
    ],
)
def test_a_checkpoint_with_a_head_is_not_said_to_have_been_taught(
    change: dict[str, Any], option: str, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    more = {"cache": tmp_path / "cache", "variants": ("onnx-fp16",), **change}
    job = Job(str(make_checkpoint("bert")), "x86-64-vnni", tmp_path, **more)
    with pytest.raises(UsageError, match=f"nothing is trained and {option} has no use.*--retrain"):
        convert(job, Lines())


@pytest.mark.parametrize(
    ("training", "option"), [(Training(teacher="new:cnn-16w-16f"), "teacher"), (Training(epochs=2), "epochs")]
)
def test_a_search_refuses_to_train_a_teacher_with_a_head(
    training: Training, option: str, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [f"text {n},{'buy' if n % 2 else 'ask'},{'dev' if n % 3 else 'train'}\n" for n in range(60)]
    (tmp_path / "rows.csv").write_text("text,label,split\n" + "".join(rows))
    job = Job(
        str(make_checkpoint("bert")), "x86-64", tmp_path, data=tmp_path / "rows.csv", cache=tmp_path / "cache",
        training=training, augment=AugmentPlan(("typo",)),
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"nothing is trained and --{option}"):
        search(Order(job, parse_budget("drop<=1")), Lines())


def test_what_a_search_asks_of_training_is_not_asked_of_its_students() -> None:
    training = Training(True, 2, 1e-3, method="lora", teacher="x", processes=2, mixup=0.2)
    job = Job("x", "arm64", Path(), training=training, augment=AugmentPlan(("typo",)))
    require_nothing_learnt(job.of_finished("student"))
