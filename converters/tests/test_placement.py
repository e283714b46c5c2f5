"""Where the weights of teachers and of checkpoints that learn go."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import doorstep_converters.placement
from doorstep_converters import ask, teach
from doorstep_converters.export.classifier import load_model
from doorstep_converters.placement import load_teacher, placement
from doorstep_converters.taught import open_taught
from doorstep_converters.worker import Channel

Make = Callable[[str], Path]
TEXTS = ["buy the milk", "送回去", "how much is the red lamp, please?", "worst zip ever"]
SPREAD = {
    "bert.embeddings": "disk", "bert.encoder.layer.0": "cpu", "bert.encoder.layer.1": "disk", "bert.pooler": "cpu",
    "dropout": "cpu", "classifier": "disk",
}  # fmt: skip


def _weights(folder: Path) -> int:
    return sum(4 * weight.numel() for weight in load_file(folder / "model.safetensors").values())


def test_a_teacher_is_spread_where_its_weights_leave_no_room_on_a_gpu(make_checkpoint: Make) -> None:
    folder = make_checkpoint("bert")
    whole = _weights(folder)
    assert placement(folder, 1, gpu_memory=2 * whole) is None
    assert placement(folder, 1, gpu_memory=whole) == "auto"  # no room for activations


def test_what_learns_needs_room_for_four_copies(make_checkpoint: Make) -> None:
    folder = make_checkpoint("bert")
    assert placement(folder, 4, gpu_memory=2 * _weights(folder)) == "auto"
    assert placement(folder, 4, gpu_memory=6 * _weights(folder)) is None


def test_nothing_is_spread_without_a_gpu_or_for_several_processes(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("bert")
    assert placement(folder, 1, gpu_memory=0) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert placement(folder, 1, gpu_memory=1) is None


def test_weights_stored_in_half_precision_count_as_what_they_take_once_loaded(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("bert")
    halves = {name: weight.half() for name, weight in load_file(source / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors", {"format": "pt"})
    memory = int(1.1 * _weights(source))
    assert placement(tmp_path, 1, gpu_memory=memory) == placement(source, 1, gpu_memory=memory) == "auto"


def test_a_teacher_too_big_for_its_gpu_is_loaded_with_a_map(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps: list[Any] = []

    def load(folder: Path, is_pickle_allowed: bool, device_map: Any) -> Any:
        maps.append(device_map)
        return load_model(folder, is_pickle_allowed, device_map=device_map)

    monkeypatch.setattr(doorstep_converters.placement, "load_model", load)
    for memory in (1, 1 << 40):
        load_teacher(make_checkpoint("bert"), gpu_memory=memory)
    assert maps == ["auto", None]


def _taught(out: Path, checkpoint: Path) -> Any:
    out.mkdir()
    corpus = out / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    with open(out / "messages", "w", encoding="utf-8") as stream:
        teach.answer(out, Channel(stream), str(checkpoint), str(corpus), 32, ("vector", "relations"))
    return open_taught(out)


def test_a_teacher_spread_over_memory_and_disk_teaches_the_same(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("bert")
    whole = _taught(tmp_path / "whole", checkpoint)
    places = {str(weight.device) for weight in load_teacher(checkpoint, device_map=SPREAD).parameters()}
    assert places == {"cpu", "meta"}  # torch's word for what is not in memory
    monkeypatch.setattr(teach, "load_teacher", partial(load_teacher, device_map=SPREAD))
    spread = _taught(tmp_path / "spread", checkpoint)
    assert spread["tokens"][:] == whole["tokens"][:]
    for name in ("logits", "vector", "relations"):
        for found, expected in zip(spread[name], whole[name], strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_teacher_spread_over_memory_and_disk_is_asked_for_the_same_probabilities(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("bert")
    whole = ask.ask(checkpoint, TEXTS, 32, lambda share: None)
    monkeypatch.setattr(ask, "load_teacher", partial(load_teacher, device_map=SPREAD))
    np.testing.assert_allclose(ask.ask(checkpoint, TEXTS, 32, lambda share: None), whole, atol=1e-5)
