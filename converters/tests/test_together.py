"""Processes that train together on this machine's cores: they learn what one learns, and end together."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from doorstep.cli.main import main
from doorstep.errors import ConversionError
from doorstep_converters.ask import ask
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.stages import Stage, StageRunner
from doorstep_converters.together import first_failure, share_of

Make = Callable[[str], Path]
LABELS = ["buy", "return"]
ROWS = [[f"{words} {n}", label] for n in range(24) for words, label in (("add to basket", "buy"), ("送回去", "return"))]


@pytest.fixture(scope="module")
def plain(make_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint without dropout: what it learns depends on the texts of each step alone."""
    folder = tmp_path_factory.mktemp("plain") / "bert"
    shutil.copytree(make_checkpoint("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _stage(checkpoint: Path, folder: Path, processes: int, epochs: int) -> Stage:
    data = folder / "data.json"
    data.write_text(json.dumps({"train": ROWS, "dev": ROWS[:8]}))
    options = {
        "seed": 1, "epochs": epochs, "learning_rate": 1e-3, "is_pickle_allowed": False, "batch": 16,
        "precision": "fp32",  # bf16 would round a batch of 8 otherwise than one of 16
    }  # fmt: skip
    arguments: dict[str, Any] = {
        "checkpoint": str(checkpoint), "data": str(data), "labels": LABELS, "max_length": 16, "options": options,
    }  # fmt: skip
    job = "doorstep_converters.finetune.train:train"
    return Stage("finetune", job, arguments, (str(processes),), is_resumable=True, processes=processes)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(plain: Path, tmp_path: Path) -> None:
    made = {}
    for processes in (1, 2):
        runner = StageRunner(tmp_path / f"cache{processes}", tmp_path / f"logs{processes}")
        made[processes] = runner.run(_stage(plain, tmp_path, processes, epochs=2), lambda share: None, 2)
    one, two = made[1], made[2]
    assert (one.result["processes"], two.result["processes"]) == (1, 2)
    assert one.result["steps"] == two.result["steps"] == 6  # 16 texts a step: 16 of one process, 8 of each of two
    assert one.result["dev_accuracy"] == two.result["dev_accuracy"]
    first, second = (load_file(found.folder / "checkpoint/model.safetensors") for found in (one, two))
    before = load_file(plain / "model.safetensors")
    certain = [name for name in first if not name.endswith("key.bias")]  # softmax takes no notice of it: Adam's noise
    assert len(certain) == len(first) - 2
    # weights move by 2e-3; sums in another order leave 1e-5 of it, in one weight of thousands
    assert all(torch.allclose(first[name], second[name], atol=3e-5) for name in certain)
    assert any(not torch.allclose(first[name], before[name], atol=1e-3) for name in first if "encoder" in name)
    assert find_checkpoint(str(two.folder / "checkpoint")).labels == tuple(LABELS)
    assert ask(two.folder / "checkpoint", ["送回去"], 16, lambda share: None).shape == (1, 2)


def _kill_one(runner: StageRunner, rank: int) -> None:
    os.kill(_ranks()[rank], signal.SIGKILL)


def _close(runner: StageRunner, rank: int) -> None:
    runner.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "reason"),
    [(_kill_one, r"finetune: process 1 \(counted from 0\): Signal 9 \(SIGKILL\)"), (_close, "exit code -9")],
)
def test_they_end_together_and_leave_none_behind(
    plain: Path, tmp_path: Path, end: Callable[[StageRunner, int], None], reason: str
) -> None:
    runner = StageRunner(tmp_path / "cache", tmp_path / "logs")
    has_begun = threading.Event()

    def end_it() -> None:
        has_begun.wait(300)
        end(runner, 1)

    ender = threading.Thread(target=end_it)
    ender.start()
    with pytest.raises(ConversionError, match=reason):
        runner.run(_stage(plain, tmp_path, processes=2, epochs=10_000), lambda share: has_begun.set(), 2)
    ender.join()
    deadline = time.monotonic() + 30
    while left := _ranks():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _ranks() -> dict[int, int]:
    """Return rank to process of those that train together below this test."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = b"doorstep_converters.worker" in (process / "cmdline").read_bytes()
            values = dict(part.partition(b"=")[::2] for part in (process / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue  # it ended, or is another user's
        if is_worker and b"RANK" in values and values.get(b"PYTEST_CURRENT_TEST") == _this_test():
            found[int(values[b"RANK"])] = int(process.name)
    return found


def _this_test() -> bytes:
    return os.environ["PYTEST_CURRENT_TEST"].encode()


SUMMARY = """training: the loss is no number
worker FAILED
Failures:
[1]:
  time      : 2026-01-01_00:00:00
  rank      : {other} (local_rank: {other})
  exitcode  : 1 (pid: 7)
  error_file: /tmp/x
  traceback : {lost}
Root Cause (first observed failure):
[0]:
  rank      : {root} (local_rank: {root})
  exitcode  : {code} (pid: 8)
  error_file: <N/A>
  traceback : {reason}
============================================================
"""


LOST = "RuntimeError: connection closed by peer"
STOPPED = "Signal 15 (SIGTERM) received by PID 7"
KILLED = "Signal 9 (SIGKILL) received by PID 8"


@pytest.mark.parametrize(
    ("values", "failure"),
    [
        ({"other": 0, "root": 1, "code": 1, "lost": LOST, "reason": "the loss is no number"}, "process 1 (counted"),
        ({"other": 1, "root": 0, "code": -9, "lost": LOST, "reason": KILLED}, "process 0 (counted"),
        ({"other": 0, "root": 1, "code": -9, "lost": STOPPED, "reason": KILLED}, "process 1 (counted"),
        ({"other": 1, "root": 0, "code": 1, "lost": STOPPED, "reason": "the loss is no number"}, "process 0 (counted"),
    ],
)
def test_the_first_failure_is_found_in_the_launchers_summary(values: dict[str, Any], failure: str) -> None:
    assert (first_failure(SUMMARY.format(**values)) or "").startswith(failure)


def test_without_a_summary_no_failure_is_made_up() -> None:
    assert first_failure("Traceback (most recent call last):\nValueError: no") is None


@pytest.mark.parametrize(("world", "share"), [("1", 32), ("2", 16), ("3", 10), ("64", 1)])
def test_a_steps_texts_are_shared(monkeypatch: pytest.MonkeyPatch, world: str, share: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    assert share_of(32) == share


def test_no_process_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as told:
        main(["finetune", "x", "--data", "y.csv", "--processes", "0"])
    assert told.value.code == 2
    assert "--processes" in capsys.readouterr().err
