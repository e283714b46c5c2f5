"""Fine-tuning by every method, its proof, and what happens when a run is killed, diverges or runs out of memory."""

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from doorstep.cli.main import main
from doorstep.errors import ConversionError, DataError, UsageError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.cli.training import FINETUNE
from doorstep_converters.finetune.compare import LEAVES
from doorstep_converters.finetune.memory import halving
from doorstep_converters.finetune.methods import METHODS
from doorstep_converters.finetune.resume import last_good, last_whole
from doorstep_converters.finetune.train import fitting_temperature, train
from doorstep_converters.job import Job, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.stages import Stage, StageRunner
from doorstep_converters.worker import Channel

Make = Callable[[str], Path]
LABELS = ["buy", "return", "ask", "complain"]
OPTIONS: dict[str, Any] = {"seed": 1, "epochs": 2, "learning_rate": None, "is_pickle_allowed": False}


@pytest.fixture(scope="module")
def data(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the reviews as the job reads them: 96 texts to learn from, 48 to judge by."""
    lines = reviews.read_text(encoding="utf-8").splitlines()[1:]
    pairs = [[line.rpartition(",")[0].strip('"'), line.rpartition(",")[2]] for line in lines]
    path = tmp_path_factory.mktemp("training") / "data.json"
    path.write_text(json.dumps({"train": pairs[::3] + pairs[1::3], "dev": pairs[2::3]}))
    return path


def _train(out: Path, checkpoint: Path, data: Path, kept: Path | None = None, **options: Any) -> dict[str, Any]:
    channel = Channel(io.StringIO(), kept)
    return train(out, channel, str(checkpoint), str(data), LABELS, 32, {**OPTIONS, **options})


def test_every_method_is_offered_on_the_command_line() -> None:
    assert set(FINETUNE) == set(METHODS) == set(LEAVES)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_a_checkpoint_that_answers_as_what_was_trained(
    make_checkpoint: Make, data: Path, tmp_path: Path, method: str
) -> None:
    result = _train(tmp_path, make_checkpoint("bert"), data, method=method)  # compares the two itself
    found = find_checkpoint(str(tmp_path / "checkpoint"))
    assert found.labels == tuple(LABELS)
    assert (found.model_type == "doorstep-tuned") == (LEAVES[method] == "in the graph")
    assert (result["trainable"] < result["parameters"]) == (method != "full")
    assert result["steps"] == 6
    assert result["dev_accuracy"] >= 0.2


def test_a_merge_that_answers_otherwise_is_refused(
    make_checkpoint: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    def forget(model: Any) -> Any:
        return model.unload()  # peft's way to throw away what was learnt

    monkeypatch.setitem(METHODS, "lora", replace(METHODS["lora"], finish=forget))
    with pytest.raises(ConversionError, match="answers otherwise than what was trained"):
        _train(tmp_path, make_checkpoint("bert"), data, method="lora", learning_rate=0.05)


def test_only_the_head_learns_where_only_the_head_is_asked_for(
    make_checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    source = make_checkpoint("roberta")
    _train(tmp_path, source, data, method="head")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "checkpoint/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("classifier.") for name in changed)


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("bert", {"method": "magic"}, "expected one of full, lora"),
        ("distilbert", {"method": "prefix"}, "takes no prefix"),
        ("albert", {"method": "adapter"}, "no list of layers"),
        ("bert", {"method": "prompt", "mixup": 0.2}, "cannot mix"),
    ],
)
def test_a_method_that_does_not_fit_says_what_does(
    make_checkpoint: Make, data: Path, tmp_path: Path, model_type: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _train(tmp_path, make_checkpoint(model_type), data, **options)


def test_a_label_the_head_lacks_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"train": [["a", "buy"], ["b", "sell"]], "dev": [["c", "buy"]]}))
    with pytest.raises(DataError, match="got 'sell'"):
        _train(tmp_path, make_checkpoint("bert"), path)


def test_a_teacher_gives_soft_labels_and_must_know_them_all(make_checkpoint: Make, data: Path, tmp_path: Path) -> None:
    teacher = str(make_checkpoint("roberta"))
    soft = _train(tmp_path / "soft", make_checkpoint("bert"), data, method="head", teacher=teacher)
    hard = _train(tmp_path / "hard", make_checkpoint("bert"), data, method="head")
    assert soft["steps"] == hard["steps"]
    one, two = (load_file(tmp_path / kind / "checkpoint/model.safetensors") for kind in ("soft", "hard"))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(DataError, match="lacks gift"):
        train(
            tmp_path, Channel(io.StringIO()), str(make_checkpoint("bert")), str(data), [*LABELS, "gift"], 32,
            {**OPTIONS, "teacher": teacher},
        )  # fmt: skip


def test_mixed_embeddings_are_learnt_from(make_checkpoint: Make, data: Path, tmp_path: Path) -> None:
    plain = _train(tmp_path / "plain", make_checkpoint("bert"), data, method="lora")
    mixed = _train(tmp_path / "mixed", make_checkpoint("bert"), data, method="lora", mixup=0.4)
    assert plain["steps"] == mixed["steps"]
    one, two = (load_file(tmp_path / kind / "checkpoint/model.safetensors") for kind in ("plain", "mixed"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_loss_that_is_no_number_stops_and_says_where_the_last_good_checkpoint_is(
    make_checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConversionError, match=r"no number at step \d+; the last good checkpoint.*--learning-rate"
    ) as told:
        _train(tmp_path, make_checkpoint("bert"), data, tmp_path / "kept", learning_rate=1e36, save_every_s=0.0)
    good = last_good(tmp_path / "kept/run")
    assert good is not None
    assert str(good) in str(told.value)
    assert all(bool(torch.isfinite(weight).all()) for weight in load_file(good / "model.safetensors").values())
    assert not (tmp_path / "checkpoint").exists()


def test_a_loss_that_is_no_number_at_once_says_that_nothing_was_saved(
    make_checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="at step 1; none was saved yet"):
        _train(tmp_path, _with_nan(make_checkpoint("bert"), tmp_path / "broken"), data)


def _with_nan(source: Path, target: Path) -> Path:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(source, target)
    weights = load_file(source / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def test_out_of_memory_halves_the_batch_until_it_fits_and_says_so() -> None:
    notes: list[str] = []

    def attempt(batch: int) -> int:
        torch.empty(1 << 50 if batch > 8 else 8, dtype=torch.uint8)  # the real allocator refuses a petabyte
        return batch

    assert halving(attempt, 32, notes.append) == 8
    assert [note.split(",")[0] for note in notes] == [
        "out of memory: the batch is now 16 texts", "out of memory: the batch is now 8 texts"
    ]  # fmt: skip


def test_out_of_memory_with_one_text_ends_with_advice() -> None:
    def attempt(batch: int) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    with pytest.raises(ConversionError, match="even with one text at a time"):
        halving(attempt, 2, lambda note: None)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(batch: int) -> None:
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match="size"):
        halving(attempt, 32, lambda note: None)


def test_half_written_checkpoints_are_passed_over(make_checkpoint: Make, data: Path, tmp_path: Path) -> None:
    _train(tmp_path, make_checkpoint("bert"), data, tmp_path / "kept", save_every_s=0.0)
    run = tmp_path / "kept/run"
    whole = last_whole(run)
    assert whole is not None
    for number, name in enumerate(("trainer_state.json", "model.safetensors", "optimizer.pt"), 1):
        folder = run / f"checkpoint-{900 + number}"
        folder.mkdir()
        for file in whole.iterdir():
            content = file.read_bytes()
            (folder / file.name).write_bytes(content[: len(content) // 2] if file.name == name else content)
    assert last_whole(run) == whole
    assert not list(run.glob("checkpoint-90?"))


def _stage(checkpoint: Path, data: Path, method: str) -> Stage:
    options = {**OPTIONS, "epochs": 12, "method": method, "save_every_s": 0.0}
    arguments = {
        "checkpoint": str(checkpoint), "data": str(data), "labels": LABELS, "max_length": 32, "options": options,
    }  # fmt: skip
    job = "doorstep_converters.finetune.train:train"
    return Stage("finetune", job, arguments, ("digest",), is_resumable=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "adalora"])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(
    make_checkpoint: Make, data: Path, tmp_path: Path, method: str
) -> None:
    stage = _stage(make_checkpoint("bert"), data, method)
    runner = StageRunner(tmp_path / "cache", tmp_path / "logs")

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "cache/unfinished").glob("*/run/checkpoint-7*/trainer_state.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in list(runner._live):
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ConversionError, match="exit code -9"):
        runner.run(stage, lambda share: None, 1)
    killer.join()
    output = runner.run(stage, lambda share: None, 1)
    assert output.result["notes"][0].startswith("training goes on from step ")
    assert int(output.result["notes"][0].rpartition(" ")[2]) >= 7
    assert not list((tmp_path / "cache/unfinished").glob("*/run"))
    assert list((tmp_path / "logs/finetune").glob("events.out.tfevents.*"))
    whole = StageRunner(tmp_path / "other", tmp_path / "logs2").run(stage, lambda share: None, 1)
    assert output.result["steps"] == whole.result["steps"] == 36
    if method == "full":  # AdaLoRA's sensitivity averages begin anew
        one, two = (load_file(found.folder / "checkpoint/model.safetensors") for found in (output, whole))
        assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "method", "variants"),
    [
        ("bert", "prefix", ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")),
        ("roberta", "prompt", ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")),
        ("distilbert", "adapter", ("onnx-fp32", "tflite-fp16")),
        ("bert", "lora", ("onnx-fp32",)),
    ],
)
def test_engines_answer_like_what_was_tuned(
    make_checkpoint: Make, reviews: Path, cache: Path, tmp_path: Path, model_type: str, method: str, variants: Any
) -> None:
    training = Training(is_forced=True, epochs=2, method=method)
    job = Job(
        str(make_checkpoint(model_type)), "x86-64", tmp_path, data=reviews, cache=cache, variants=variants,
        max_length=32, training=training, bound=Bound(agreement=0.9),
    )  # fmt: skip
    report = convert(job, Lines())
    errors = {found.plan.name: found.parity.max_abs_error for found in report.candidates if found.parity}
    assert set(errors) == set(variants)
    assert errors["onnx-fp32"] < 1e-4
    assert max(errors.values()) < 0.02


@pytest.mark.slow
def test_the_command_compares_methods_and_writes_a_checkpoint(
    encoder_only: Path, reviews: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [
        "finetune", str(encoder_only), "--data", str(reviews), "--cache", str(cache), "--logs", str(tmp_path / "logs"),
        "--epochs", "2", "--out", str(tmp_path / "made"),
    ]  # fmt: skip
    assert main([*base, "--compare", "lora,head", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["lora", "head"]
    assert all(row["trainable"] and row["peak_rss_mib"] > 0 and row["seconds"] > 0 for row in rows)
    assert not (tmp_path / "made").exists()
    assert main([*base, "--finetune", "head"]) == 0
    assert find_checkpoint(str(tmp_path / "made")).labels == tuple(sorted(LABELS))
    assert main([*base, "--finetune", "head"]) == 1
    assert "something is there already" in capsys.readouterr().err


def test_a_checkpoint_that_is_less_sure_than_right_is_told_to_be_a_poor_teacher() -> None:
    truth = np.arange(300) % 3
    logits = np.eye(3, dtype=np.float32)[truth]
    logits[::10] = logits[1::10]  # nine of ten are right
    notes: list[str] = []
    assert fitting_temperature(3 * logits, truth, notes.append) == pytest.approx(1.0, abs=0.15)
    assert notes == []
    assert fitting_temperature(logits, truth, notes.append) == pytest.approx(1 / 3, abs=0.05)
    assert "a temperature of 0.3" in notes[0]
    assert "more --epochs" in notes[0]
