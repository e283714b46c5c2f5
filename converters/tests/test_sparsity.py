"""Single weights pruned by magnitude: on a schedule, and guarded as every training."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from doorstep.errors import UsageError
from doorstep_converters import distill
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import load_data
from doorstep_converters.export.classifier import load_model
from doorstep_converters.learner import newest_save
from doorstep_converters.prune import magnitude
from doorstep_converters.prune.sparsity import prunable
from doorstep_converters.search.space import PruneSpec
from doorstep_converters.students.build import build_student
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.taught import Taught, write_index, write_shard
from doorstep_converters.worker import Channel

Make = Callable[[str], Path]
LABELS = ("buy", "return", "ask", "complain")


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    with open(tmp_path / "messages", "w", encoding="utf-8") as stream:
        yield Channel(stream)


@pytest.fixture(scope="module")
def rows(reviews: Path) -> list[tuple[str, str]]:
    data = load_data(reviews)
    return [(row.text, row.label or "") for row in (*data.train, *data.dev, *data.test)]


def _taught(folder: Path, rows: list[tuple[str, str]], bad: tuple[int, ...] = ()) -> Path:
    """Write the answers of a teacher that is always right, but for those that are no numbers."""
    folder.mkdir()
    logits = [8.0 * np.eye(len(LABELS), dtype=np.float32)[LABELS.index(label)] for _, label in rows]
    for place in bad:
        logits[place] = np.full(len(LABELS), np.nan, np.float32)
    write_shard(
        folder / "00000.arrow", {"text": [text for text, _ in rows], "label": [-1] * len(rows), "logits": logits}, ()
    )
    write_index(folder, Taught(len(rows), LABELS))
    (folder / "data.json").write_text(json.dumps({"dev": rows[::6]}), encoding="ascii")
    return folder


def _learn(out: Path, channel: Channel, student: Path, taught: Path, **options: Any) -> dict[str, Any]:
    plain = {"batch": 16, "learning_rate": 0.01, "max_length": 32, **options}
    return distill.train(out, channel, str(student), str(taught), str(taught / "data.json"), plain)


def _shares(checkpoint: Path) -> list[float]:
    return [float((weight == 0).float().mean()) for weight in prunable(load_model(checkpoint))]


def test_weights_become_zero_while_a_student_learns(
    rows: list[tuple[str, str]], make_checkpoint: Make, channel: Channel, tmp_path: Path
) -> None:
    taught = _taught(tmp_path / "taught", rows)
    result = _learn(tmp_path, channel, make_checkpoint("bert"), taught, steps=40, saves=10, zeros=0.75)
    assert result["zeros"] / result["weights"] == pytest.approx(0.75, abs=0.01)
    shares = _shares(tmp_path / "checkpoint")
    assert shares == pytest.approx([0.75] * len(shares), abs=0.01)
    assert list((tmp_path / "logs").glob("events.*"))


def test_the_best_save_is_one_with_all_zeros_though_more_weights_were_right_more_often(
    rows: list[tuple[str, str]], make_checkpoint: Make, channel: Channel, tmp_path: Path
) -> None:
    taught = _taught(tmp_path / "taught", rows)
    for name in ("whole", "sparse"):
        (tmp_path / name).mkdir()
    teacher, texts = find_checkpoint(str(make_checkpoint("bert"))), [text for text, _ in rows]
    build_student(tmp_path / "student", StudentSpec("cnn", 16, 200, filters=16), teacher, texts, LABELS, 3)
    whole = _learn(tmp_path / "whole", channel, tmp_path / "student", taught, steps=60, saves=2)
    student = tmp_path / "whole/checkpoint"
    result = _learn(tmp_path / "sparse", channel, student, taught, steps=40, saves=10, zeros=0.97, learning_rate=1e-5)
    assert result["dev_accuracy"] < whole["dev_accuracy"]
    assert result["best_step"] >= 28  # where the schedule ends


def test_a_loss_that_is_no_number_keeps_the_last_good_weights_and_says_where(
    rows: list[tuple[str, str]], make_checkpoint: Make, channel: Channel, tmp_path: Path
) -> None:
    taught = _taught(tmp_path / "taught", rows, bad=(len(rows) // 2,))
    student = make_checkpoint("bert")
    result = _learn(tmp_path, channel, student, taught, batch=2, steps=200, saves=200, zeros=0.75)
    assert "the loss is no number at step" in result["notes"][-1]
    assert "kept the weights of step" in result["notes"][-1]
    weights = load_model(tmp_path / "checkpoint").state_dict().values()
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)
    assert min(_shares(tmp_path / "checkpoint")) > 0.74


def test_a_killed_pruning_goes_on_from_its_last_save(
    rows: list[tuple[str, str]], make_checkpoint: Make, tmp_path: Path
) -> None:
    data, kept, killed, out = (tmp_path / name for name in ("data.json", "kept", "killed", "out"))
    data.write_text(json.dumps({"train": rows, "dev": rows[::6]}), encoding="ascii")
    killed.mkdir()
    arguments = {
        "checkpoint": str(make_checkpoint("bert")), "data": str(data), "sparsity": 0.75, "steps": 2000, "max_length": 32
    }  # fmt: skip
    message = {"job": "doorstep_converters.prune.magnitude:prune", "out": str(killed), "kept": str(kept)}
    program = [sys.executable, "-m", "doorstep_converters.worker", json.dumps({**message, "arguments": arguments})]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(kept.glob("magnitude/run/checkpoint-*/whole.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    save = newest_save(kept / "magnitude/run")
    assert save is not None
    step = int(save.name.rpartition("-")[2])
    with open(tmp_path / "messages", "w", encoding="utf-8") as stream:
        result = magnitude.prune(out, Channel(stream, kept), **{**arguments, "steps": step + 10})
    assert result["notes"] == [f"went on from step {step}"]
    assert result["steps"] == step + 10
    assert min(_shares(out / "checkpoint")) > 0.74
    assert not list(kept.iterdir())


@pytest.mark.parametrize("name", ["pruned-80s", "pruned-3l-50h-80s", "pruned-8192v-1s"])
def test_names_of_sparse_teachers_decode(name: str) -> None:
    spec = PruneSpec.from_name(name)
    assert spec.name == name
    assert spec.is_trained


@pytest.mark.parametrize("name", ["pruned-0s", "pruned-100s"])
def test_a_share_of_zeros_that_is_none_or_all_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 99 percent of zeros"):
        PruneSpec.from_name(name)
