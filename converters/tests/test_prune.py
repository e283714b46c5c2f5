"""Pruning: smaller tensors that load, export and answer; a vocabulary that keeps the data's tokens."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.export import onnx as export_onnx
from doorstep_converters.export.classifier import load_model
from doorstep_converters.job import Job
from doorstep_converters.pipeline import convert
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.progress import Lines
from doorstep_converters.prune import heads, layers, magnitude, vocabulary, width
from doorstep_converters.prune.sparsity import scheduled
from doorstep_converters.report import summary, to_plain, travels
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

Make = Callable[[str], Path]
PRUNABLE = ("bert", "distilbert", "roberta", "xlm-roberta")
TEXTS = ("质量太差, I want to return it", "how much is the 手机壳?", "add two lamps to my basket", "worst zip ever!!")


@pytest.fixture
def channel() -> Channel:
    return Channel(io.StringIO())


@pytest.fixture
def data(tmp_path: Path) -> str:
    labels = ("return", "ask", "buy", "complain")
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"train": [[text, label] for text, label in zip(TEXTS, labels, strict=True)] * 3}))
    return str(path)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(TEXTS))
    return str(path)


def _logits(folder: Path) -> Any:
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    encoded = tokenizer(list(TEXTS), truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        feeds = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        return model(**feeds).logits.numpy()


def _weights(folder: Path) -> int:
    return sum(weight.size for weight in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("model_type", PRUNABLE)
@pytest.mark.parametrize("part", [heads, width])
@pytest.mark.parametrize("importance", ["gradient", "activation"])
def test_a_pruned_checkpoint_is_smaller_and_answers(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, model_type: str, part: Any, importance: str
) -> None:
    source = make_checkpoint(model_type)
    result = part.prune(tmp_path, channel, str(source), data, keep=0.5, importance=importance)
    pruned = find_checkpoint(str(tmp_path / "checkpoint"))
    assert _weights(pruned.folder) == result["parameters"] < _weights(source)
    assert np.isfinite(_logits(pruned.folder)).all()


@pytest.mark.parametrize("model_type", PRUNABLE)
@pytest.mark.parametrize("part", [heads, width])
def test_keeping_everything_changes_no_answer(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, model_type: str, part: Any
) -> None:
    source = make_checkpoint(model_type)
    part.prune(tmp_path, channel, str(source), data, keep=1.0)
    np.testing.assert_allclose(_logits(tmp_path / "checkpoint"), _logits(source), atol=1e-5)


def test_the_heads_that_go_are_those_that_say_nothing(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path
) -> None:
    model = load_model(make_checkpoint("bert"))
    with torch.no_grad():
        for place, layer in enumerate(model.bert.encoder.layer):
            silent = slice(8 * place, 8 * place + 16)  # heads 0 and 1 of the first layer, 1 and 2 of the second
            layer.attention.self.value.weight[silent] = 0
            layer.attention.self.value.bias[silent] = 0
    model.save_pretrained(tmp_path / "silent")
    load_tokenizer(make_checkpoint("bert")).save_pretrained(tmp_path / "silent")
    result = heads.prune(tmp_path / "out", channel, str(tmp_path / "silent"), data, keep=0.5)
    assert result["kept"] == [[2, 3], [0, 3]]
    np.testing.assert_allclose(_logits(tmp_path / "out/checkpoint"), _logits(tmp_path / "silent"), atol=1e-5)


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_the_layer_that_does_nothing_goes(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, model_type: str
) -> None:
    result = layers.prune(tmp_path, channel, str(make_checkpoint(model_type)), data, keep=1)
    assert len(result["kept"]) == 1
    assert result["parameters"] < result["parameters_before"]
    assert np.isfinite(_logits(tmp_path / "checkpoint")).all()


@pytest.mark.slow
def test_a_checkpoint_pruned_in_every_way_exports_and_runs_in_an_engine(
    make_checkpoint: Make, channel: Channel, data: str, texts: str, tmp_path: Path
) -> None:
    step = [tmp_path / name for name in ("heads", "width", "layers", "vocabulary", "onnx")]
    heads.prune(step[0], channel, str(make_checkpoint("bert")), data, keep=0.4)
    width.prune(step[1], channel, str(step[0] / "checkpoint"), data, keep=0.4)
    layers.prune(step[2], channel, str(step[1] / "checkpoint"), data, keep=1)
    vocabulary.prune(step[3], channel, str(step[2] / "checkpoint"), texts)
    step[4].mkdir()
    export_onnx.export(step[4], channel, str(step[3] / "checkpoint"), is_pickle_allowed=False)
    encoded = load_tokenizer(step[3] / "checkpoint")(list(TEXTS), padding=True, return_tensors="np")
    feeds = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    for name in ("portable.onnx", "model.onnx"):
        session = onnxruntime.InferenceSession(str(step[4] / name), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, feeds)[0], _logits(step[3] / "checkpoint"), atol=1e-3)


@pytest.mark.parametrize("part", [heads, width])
@pytest.mark.parametrize("model_type", ["albert", "deberta"])
def test_an_architecture_without_a_layout_is_refused(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, part: Any, model_type: str
) -> None:
    with pytest.raises(CheckpointError, match=f"bert, distilbert, roberta, xlm-roberta, got '{model_type}'"):
        part.prune(tmp_path, channel, str(make_checkpoint(model_type)), data, keep=0.5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"keep": 0.0}, UsageError, "above 0 and at most 1, got 0.0"),
        ({"keep": 1.5}, UsageError, "got 1.5"),
        ({"keep": 0.5, "importance": "astrology"}, UsageError, "expected gradient or activation"),
    ],
)
def test_a_wrong_share_or_importance_is_named(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, options: Any, kind: Any, message: str
) -> None:
    with pytest.raises(kind, match=message):
        heads.prune(tmp_path, channel, str(make_checkpoint("bert")), data, **options)


@pytest.mark.parametrize("keep", [0, 3])
def test_a_wrong_number_of_layers_is_named(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, keep: int
) -> None:
    with pytest.raises(UsageError, match=f"expected 1 to 2, got {keep}"):
        layers.prune(tmp_path, channel, str(make_checkpoint("bert")), data, keep)


@pytest.mark.parametrize(("pairs", "message"), [([], "got none"), ([["a", "sell"]], "lacks the label 'sell'")])
def test_unusable_texts_are_named(
    make_checkpoint: Make, channel: Channel, tmp_path: Path, pairs: list[list[str]], message: str
) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"train": pairs}))
    with pytest.raises(DataError, match=message):
        heads.prune(tmp_path, channel, str(make_checkpoint("bert")), str(tmp_path / "d.json"), keep=0.5)


TOKENIZERS = ("bert", "distilbert", "roberta", "deberta", "xlm-roberta", "albert", "deberta-v2")


@pytest.mark.parametrize("model_type", TOKENIZERS)
def test_a_smaller_vocabulary_changes_no_answer_to_the_data(
    make_checkpoint: Make, channel: Channel, texts: str, tmp_path: Path, model_type: str
) -> None:
    source = make_checkpoint(model_type)
    result = vocabulary.prune(tmp_path, channel, str(source), texts)
    assert result["texts_changed"] == 0
    assert result["tokens"] < result["tokens_before"]
    np.testing.assert_allclose(_logits(tmp_path / "checkpoint"), _logits(source), atol=1e-5)


@pytest.mark.parametrize("model_type", TOKENIZERS)
def test_a_smaller_vocabulary_reads_every_text(
    make_checkpoint: Make, channel: Channel, texts: str, tmp_path: Path, model_type: str
) -> None:
    vocabulary.prune(tmp_path, channel, str(make_checkpoint(model_type)), texts)
    tokenizer = load_tokenizer(tmp_path / "checkpoint")
    table = load_model(tmp_path / "checkpoint").get_input_embeddings().num_embeddings
    assert len(tokenizer) == table
    rows = tokenizer([*PROBES, *SENTENCES])["input_ids"]
    assert max(map(max, rows)) < table


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_no_latin_word_becomes_unknown(
    make_checkpoint: Make, channel: Channel, texts: str, tmp_path: Path, model_type: str
) -> None:
    source = make_checkpoint(model_type)
    vocabulary.prune(tmp_path, channel, str(source), texts)
    before, after = load_tokenizer(source), load_tokenizer(tmp_path / "checkpoint")
    words = [word for text in SENTENCES if text.isascii() for word in text.split()]
    known = [word for word in words if before.unk_token_id not in before(word)["input_ids"]]
    assert len(known) > 20
    assert not [word for word in known if after.unk_token_id in after(word)["input_ids"]]


def test_a_bound_on_the_vocabulary_keeps_the_frequent(
    make_checkpoint: Make, channel: Channel, texts: str, tmp_path: Path
) -> None:
    source = str(make_checkpoint("bert"))
    whole = vocabulary.prune(tmp_path / "whole", channel, source, texts)["tokens"]
    result = vocabulary.prune(tmp_path / "part", channel, source, texts, size=whole - 5)
    assert result["tokens"] == whole - 5
    with pytest.raises(UsageError, match=r"tokens or more .* got 9"):
        vocabulary.prune(tmp_path / "none", channel, source, texts, size=9)


def test_a_vocabulary_without_texts_is_refused(make_checkpoint: Make, channel: Channel, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text("[]")
    with pytest.raises(DataError, match="got none"):
        vocabulary.prune(tmp_path, channel, str(make_checkpoint("bert")), str(tmp_path / "texts.json"))


@pytest.mark.parametrize("steps", [0, 3])
def test_magnitude_pruning_zeroes_the_share_asked_for(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, steps: int
) -> None:
    result = magnitude.prune(tmp_path, channel, str(make_checkpoint("bert")), data, sparsity=0.75, steps=steps)
    assert result["zeros"] / result["weights"] == pytest.approx(0.75, abs=0.01)
    model = load_model(tmp_path / "checkpoint")
    assert (model.bert.encoder.layer[0].intermediate.dense.weight == 0).float().mean() == pytest.approx(0.75, abs=0.01)


def test_the_curves_of_magnitude_pruning_are_written(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    magnitude.prune(tmp_path, channel, str(make_checkpoint("bert")), data, sparsity=0.75, steps=3)
    (events,) = (tmp_path / "logs").glob("events.*")
    curves = EventAccumulator(str(events)).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2, 3]


def test_sparsity_grows_with_the_steps() -> None:
    shares = [scheduled(0.9, step, 10) for step in range(11)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 0.9)


def test_a_sparsity_of_one_is_refused(make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="share of 0 to below 1, got 1"):
        magnitude.prune(tmp_path, channel, str(make_checkpoint("bert")), data, sparsity=1.0)


@pytest.mark.slow
def test_the_bundle_of_a_pruned_checkpoint_says_what_is_fetched_and_what_is_installed(
    make_checkpoint: Make, channel: Channel, data: str, tmp_path: Path, cache: Path
) -> None:
    magnitude.prune(tmp_path, channel, str(make_checkpoint("bert")), data, sparsity=0.9, steps=0)
    job = Job(
        str(tmp_path / "checkpoint"), "x86-64-vnni", tmp_path, name="pruned", variants=("onnx-fp32",), max_length=32,
        cache=cache,
    )  # fmt: skip
    report = convert(job, Lines())
    assert report.manifest is not None
    (moved, held) = travels(report)["onnx-fp32"]
    measured = report.manifest.variants[0].measured
    assert measured is not None
    assert moved < 0.5 * held
    assert held == measured.bytes
    assert "fetched" in summary(report)
    assert to_plain(report)["candidates"][0]["fetched_bytes"] == moved
