"""Every row of bad input to a convert: a clear error of the right kind, and nothing lost or half-made."""

import fcntl
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from doorstep.cli.main import main
from doorstep.errors import CheckpointError, DataError, DoorstepError, ParityError, SignatureError, UsageError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import load_data
from doorstep_converters.export.classifier import load_model
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, require_bundle
from doorstep_converters.progress import Lines

Make = Callable[[str], Path]


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _gpt2(folder: Path) -> None:
    _edit_config(folder, model_type="gpt2", architectures=["GPT2LMHeadModel"])


def _resnet(folder: Path) -> None:
    _edit_config(folder, model_type="resnet", architectures=["ResNetForImageClassification"])


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def _missing(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, "no such folder"),
        (_empty, "the folder is empty"),
        (_no_config, "no config.json"),
        (_broken_config, "expected JSON"),
        (_no_tokenizer, "no tokenizer"),
        (_no_weights, "no weights"),
        (_pickled, "--allow-pickle"),
        (_gpt2, "'gpt2' is no text encoder"),
        (_resnet, "what works: albert, bert"),
    ],
)
def test_a_bad_checkpoint_is_named(
    make_checkpoint: Make, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(make_checkpoint("bert"), folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(str(folder))


def test_a_pickle_is_loaded_only_with_permission(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(make_checkpoint("bert"), folder)
    model = load_model(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder)
    assert (
        find_checkpoint(str(folder), is_pickle_allowed=True).labels
        == find_checkpoint(str(make_checkpoint("bert"))).labels
    )
    again = load_model(folder, is_pickle_allowed=True)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_an_exported_file_is_sent_to_adopt(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="doorstep adopt"):
        find_checkpoint(str(tmp_path / "model.onnx"))


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(CheckpointError, match="pip install --no-deps no-such-package"):
        find_checkpoint("package:no_such_package")


def test_a_hub_id_that_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="the hub did not give it"):
        find_checkpoint("nobody/no-such-checkpoint-here")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", b"", "the file is empty"),
        ("d.csv", b"text,label\n", "got no rows"),
        ("d.csv", b"text,colour\na,b\n", "expected a column 'label'"),
        ("d.csv", b"message,label\na,b\n", "--text-column"),
        ("d.csv", b"text,label\na,x\nb,x\nc,x\n", "two or more classes"),
        ("d.csv", b"text,label\nhello,\n", "the label is empty"),
        ("d.csv", "text,label\n质量差,bad\n".encode("gb18030"), "expected UTF-8"),
        ("d.csv", b"text,label,split\na,x,holdout\n", "expected split train, dev or test"),
        ("d.jsonl", b'{"text": "a", "label": "x"}\n{oops\n', "d.jsonl:2"),
        ("d.jsonl", b'["text"]\n', "expected a JSON object"),
        ("d.jsonl", b'{"text": 3, "label": "x"}\n', "expected a text and a label"),
        ("d.jsonl.gz", b"not gzip", "cannot be read"),
        ("d.jsonl.gz", gzip.compress(b'{"text": "a", "label": "x"}\n' * 99)[:40], "cannot be read"),
        ("d.xlsx", b"PK", "expected one of .csv"),
        ("d.csv", b"text,label\na,x\nb,y\n", "too few"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / name)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_data(tmp_path / "nothing.csv")


def test_a_folder_without_splits_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv"):
        load_data(tmp_path)


@pytest.fixture
def job(make_checkpoint: Make, reviews: Path, cache: Path, tmp_path: Path) -> Job:
    variants = ("onnx-fp32",)
    return Job(
        str(make_checkpoint("bert")), "x86-64", tmp_path, data=reviews, cache=cache, variants=variants, max_length=32
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"target": "riscv"}, UsageError, "expected one of x86-64, x86-64-vnni, arm64"),
        ({"variants": ("coreml",)}, UsageError, "onnx-fp32"),
        ({"target": "arm64", "variants": ("openvino-int8-static",)}, UsageError, "OpenVINO on ARM"),
        ({"max_length": 4000}, UsageError, "expected 8 to 32"),
        ({"name": "../up"}, UsageError, "give another with --name"),
        ({"name": "商品评论"}, UsageError, "give another with --name"),
        ({"name": "x" * 101}, UsageError, "at most 100"),
        ({"key": Path("/nowhere/key.pem")}, SignatureError, "expected a PEM private key"),
    ],
)
def test_a_wrong_argument_lists_the_known(
    job: Job, change: dict[str, object], kind: type[DoorstepError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        convert(replace(job, **change), Lines())


@pytest.mark.parametrize(
    "option, value",
    [("--agreement", "7"), ("--agreement", "nan"), ("--drop", "-1"), ("--eval-limit", "0"), ("--max-length", "long")],
)
def test_a_number_out_of_range_is_wrong_usage(
    job: Job, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", job.checkpoint, "--target", "arm64", "--out", str(job.out), option, value])
    assert option in capsys.readouterr().err
    assert not list(job.out.iterdir())


def test_what_a_power_cut_left_is_swept_away(job: Job) -> None:
    (job.out / ".reviews.bundle.abc123").mkdir()
    (job.out / ".reviews.bundle.abc123/model.onnx").write_bytes(b"half")
    (job.out / ".other.bundle.abc123").mkdir()
    with pytest.raises(UsageError):
        convert(replace(job, max_length=4000), Lines())
    assert [path.name for path in job.out.iterdir() if path.is_dir()] == [".other.bundle.abc123"]


def test_labels_that_do_not_match_the_head_are_named(job: Job, tmp_path: Path) -> None:
    data = tmp_path / "other.csv"
    data.write_text("text,label\n" + "".join(f"a{n},cat\nb{n},dog\n" for n in range(40)))
    with pytest.raises(DataError, match=r"lacks cat, dog; .*--retrain"):
        convert(replace(job, data=data), Lines())


def test_an_encoder_without_head_or_data_asks_for_data(job: Job, encoder_only: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        convert(replace(job, checkpoint=str(encoder_only), data=None), Lines())


@pytest.mark.slow
def test_no_survivor_means_no_bundle_and_a_report(job: Job) -> None:
    report = convert(replace(job, bound=Bound(agreement=1.01, drop=-100.0)), Lines())
    assert report.bundle is None
    assert not list(job.out.glob("*.bundle"))
    with pytest.raises(ParityError, match=r"onnx-fp32: agreement 1.0000 is below 1.01"):
        require_bundle(report)


@pytest.mark.slow
def test_no_survivor_keeps_the_bundle_that_stood_there(job: Job) -> None:
    first = convert(job, Lines())
    assert first.bundle is not None
    before = (first.bundle / "manifest.json").read_bytes()
    convert(replace(job, bound=Bound(agreement=1.01, drop=-100.0)), Lines())
    assert (first.bundle / "manifest.json").read_bytes() == before


def test_a_folder_that_is_no_bundle_is_not_replaced(job: Job) -> None:
    photos = job.out / "reviews.bundle"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear to somebody")
    with pytest.raises(UsageError, match="no bundle stands there"):
        convert(job, Lines())
    assert (photos / "holiday.jpg").read_bytes() == b"dear to somebody"


def test_two_converts_into_one_place_do_not_mix(job: Job) -> None:
    with open(job.out / ".reviews.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"another convert is writing reviews\.bundle"):
            convert(job, Lines())


def _command(job: Job) -> list[str]:
    return [
        sys.executable, "-m", "doorstep.cli.main", "convert", job.checkpoint, "--target", job.target,
        "--data", str(job.data), "--out", str(job.out), "--cache", str(job.cache),
        "--variants", "onnx-fp32", "--max-length", "32",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delay_s", "kind"), [(1.0, signal.SIGINT), (4.0, signal.SIGINT), (8.0, signal.SIGINT), (8.0, signal.SIGTERM)]
)
def test_an_interrupt_leaves_nothing_half_made(job: Job, tmp_path: Path, delay_s: float, kind: signal.Signals) -> None:
    own = replace(job, cache=tmp_path / "cache", out=tmp_path / "dist")
    process = subprocess.Popen(_command(own), stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(delay_s)
    os.kill(process.pid, kind)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not list((tmp_path / "dist").glob("*.bundle"))
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    assert not list((tmp_path / "cache").glob("work-*"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_old_bundle(job: Job) -> None:
    report = convert(job, Lines())
    assert report.bundle is not None
    before = (report.bundle / "manifest.json").read_bytes()
    limit = 20_000  # bytes a file may have: enough for JSON, too little for a model

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(_command(job), capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("doorstep: ")
    assert "Traceback" not in done.stderr
    assert (report.bundle / "manifest.json").read_bytes() == before
