"""Vectors as sentence-transformers makes them, calculated here from transformers' own hidden states."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from doorstep import Predictor
from doorstep.errors import CheckpointError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.export.onnx import export_any
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.sentence_similarity import read_recipe
from doorstep_converters.tasks.sentence_similarity_build import build, write
from doorstep_converters.tasks.sentence_similarity_encoder import SentenceEncoder

TEXTS = ["is the oat milk back in stock", "tea", "我想买手机壳 please", "send back the lamp, it broke on the first day"]
SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "type_vocab_size": 2, "initializer_range": 0.4,
}  # fmt: skip
# What sentence-transformers' documentation says of each, for the states of one text's tokens: [tokens, dimensions].
BY_HAND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0),
    "mean": lambda states: states.mean(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / np.sqrt(len(states)),
    "weightedmean": lambda states: np.average(states, axis=0, weights=np.arange(1, len(states) + 1)),
    "lasttoken": lambda states: states[-1],
}
FLAGS = {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip


@pytest.fixture(scope="session")
def encoder(make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder whose tokens' states differ from each other."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    torch.manual_seed(7)
    AutoModel.from_config(AutoConfig.for_model("bert", **SMALL)).save_pretrained(folder)
    make_tokenizer("wordpiece").save_pretrained(folder)
    return folder


def _folder(encoder: Path, out: Path, modules: list[tuple[str, dict[str, Any]]]) -> Path:
    """Copy the encoder and write the modules behind it; a Dense layer gets weights of its own."""
    out.mkdir()
    for path in encoder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    plain = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for place, (kind, config) in enumerate(modules, start=1):
        path = out / f"{place}_{kind}"
        path.mkdir()
        plain.append({"path": path.name, "type": f"sentence_transformers.models.{kind}"})
        (path / "config.json").write_text(json.dumps(config))
        if kind == "Dense":
            torch.manual_seed(place)
            layer = torch.nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
            weights = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
            save_file(weights, path / "model.safetensors")
    (out / "modules.json").write_text(json.dumps(plain))
    return out


def _states(encoder: Path) -> list[np.ndarray]:
    """Return transformers' states of each text [tokens, dimensions], one text at a time and so without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0].numpy()
            for text in TEXTS
        ]


def _module_vectors(folder: Path) -> np.ndarray:
    """Return what the module that is exported gives for all texts in one padded batch."""
    model = find_craft("sentence-similarity").load(folder, False)
    feeds = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    assert feeds["attention_mask"].min() == 0
    with torch.no_grad():
        return model.module(*(feeds[spec.name] for spec in model.inputs)).numpy()


def _graph_vectors(folder: Path, out: Path) -> np.ndarray:
    """Return what the exported graph gives for all texts in one padded batch."""
    export_any(find_craft("sentence-similarity").load(folder, False), out / "model.onnx")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    assert feeds["attention_mask"].min() == 0
    names = [spec.name for spec in session.get_inputs()]
    return session.run(None, {name: feeds[name].astype(np.int64) for name in names})[0]


@pytest.mark.parametrize("mode", BY_HAND)
def test_every_pooling_is_that_of_sentence_transformers(mode: str, encoder: Path, tmp_path: Path) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", {FLAGS[mode]: True})])
    expected = [BY_HAND[mode](states) for states in _states(encoder)]
    np.testing.assert_allclose(_module_vectors(folder), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({FLAGS["mean"]: True, FLAGS["max"]: True, FLAGS["cls"]: True}, ("cls", "max", "mean")),
        (dict.fromkeys(FLAGS.values(), True), tuple(BY_HAND)),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode": ["lasttoken", "mean"]}, ("lasttoken", "mean")),
        ({"pooling_mode": "max", FLAGS["mean"]: True}, ("max",)),
    ],
    ids=["three flags", "every flag", "a name", "names in an order", "a name beside a flag"],
)
def test_poolings_stand_side_by_side_in_the_order_of_sentence_transformers(
    pooling: dict[str, Any], modes: tuple[str, ...], encoder: Path, tmp_path: Path
) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", pooling)])
    expected = [np.concatenate([BY_HAND[mode](states) for mode in modes]) for states in _states(encoder)]
    np.testing.assert_allclose(_module_vectors(folder), expected, atol=2e-5)


def test_every_pooling_and_a_layer_come_through_the_export(encoder: Path, tmp_path: Path) -> None:
    dense = {"in_features": 6 * 32, "out_features": 40, "bias": True}
    pooling = dict.fromkeys(FLAGS.values(), True)
    folder = _folder(encoder, tmp_path / "it", [("Pooling", pooling), ("Dense", dense)])
    torch.manual_seed(2)
    layer = torch.nn.Linear(6 * 32, 40)
    poolings = np.array([np.concatenate([pool(states) for pool in BY_HAND.values()]) for states in _states(encoder)])
    expected = np.tanh(poolings @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    np.testing.assert_allclose(_graph_vectors(folder, tmp_path), expected, atol=1e-4)


DENSE = {"in_features": 32, "out_features": 24, "bias": True}
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch.nn.modules.activation.Tanh": np.tanh,
    "torch.nn.modules.linear.Identity": lambda vectors: vectors,
    "torch.nn.modules.activation.ReLU": lambda vectors: np.maximum(vectors, 0),
}


@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
def test_layers_behind_the_pooling_are_those_of_the_folder(
    activation: str | None, encoder: Path, tmp_path: Path
) -> None:
    named = {} if activation is None else {"activation_function": activation}
    second = {"in_features": 24, "out_features": 8, "bias": False, **named}
    modules = [("Pooling", {FLAGS["mean"]: True}), ("Dense", {**DENSE, **named}), ("Dense", second)]
    folder = _folder(encoder, tmp_path / "it", modules)
    bend = ACTIVATIONS[activation or "torch.nn.modules.activation.Tanh"]  # the default of sentence-transformers
    torch.manual_seed(2)
    one = torch.nn.Linear(32, 24)
    torch.manual_seed(3)
    two = torch.nn.Linear(24, 8, bias=False)
    vectors = np.array([states.mean(0) for states in _states(encoder)])
    vectors = bend(vectors @ one.weight.detach().numpy().T + one.bias.detach().numpy())
    vectors = bend(vectors @ two.weight.detach().numpy().T)
    np.testing.assert_allclose(_module_vectors(folder), vectors, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("is_normalized", [True, False])
def test_a_bundle_gives_the_vectors_of_the_folder_at_the_length_it_says(
    is_normalized: bool, encoder: Path, cache: Path, tmp_path: Path
) -> None:
    modules = [("Pooling", {FLAGS["weightedmean"]: True}), *([("Normalize", {})] if is_normalized else [])]
    folder = _folder(encoder, tmp_path / "it", modules)
    job = Job(
        str(folder), "x86-64", tmp_path, task="sentence-similarity", cache=cache, variants=("onnx-fp32",),
        bound=Bound(), max_length=32,
    )  # fmt: skip
    report = convert(job, Lines())
    expected = np.array([BY_HAND["weightedmean"](states) for states in _states(encoder)])
    if is_normalized:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert report.bundle is not None
    with Predictor.load(report.bundle) as predictor:
        found = [vector.values for vector in predictor.predict_many(TEXTS)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_short_names_of_products_make_a_bundle_whatever_long_probes_lose(
    encoder: Path, cache: Path, tmp_path: Path
) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", {FLAGS["mean"]: True}), ("Normalize", {})])
    reads = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**reads, "model_max_length": 128}))
    (tmp_path / "names.csv").write_text("text,split\ntea,train\nlamp,train\nshoes,dev\nmilk,test\n")
    job = Job(
        str(folder), "x86-64", tmp_path, task="sentence-similarity", cache=cache, variants=("onnx-fp32",),
        bound=Bound(), data=tmp_path / "names.csv",
    )  # fmt: skip
    report = convert(job, Lines())
    assert report.manifest is not None
    assert report.manifest.options["max_length"] < 128
    assert {c.plan.name: c.failure for c in report.candidates} == {"onnx-fp32": ""}


@pytest.mark.parametrize(
    "kinds",
    [("Pooling", "Normalize", "Dense"), ("Pooling", "Pooling"), ("Dense", "Pooling"), ("Normalize", "Pooling")],
    ids=", ".join,
)
def test_modules_in_an_order_that_the_graph_does_not_follow_are_refused(
    kinds: tuple[str, ...], encoder: Path, tmp_path: Path
) -> None:
    configs = {"Pooling": {FLAGS["mean"]: True}, "Dense": DENSE, "Normalize": {}}
    folder = _folder(encoder, tmp_path / "it", [(kind, configs[kind]) for kind in kinds])
    with pytest.raises(CheckpointError, match="expected one Pooling, then Dense layers, then Normalize, got"):
        read_recipe(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_residual": True}, "without a residual"),
        ({"module_input_name": "token_embeddings"}, "expected a layer on the sentence_embedding"),
        ({"activation_function": "torch.nn.modules.activation.SiLU"}, "expected Identity, Tanh, ReLU or GELU"),
    ],
)
def test_a_layer_that_does_more_than_the_graph_is_refused(
    change: dict[str, Any], said: str, encoder: Path, tmp_path: Path
) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", {FLAGS["mean"]: True}), ("Dense", {**DENSE, **change})])
    with pytest.raises(CheckpointError, match=said):
        find_craft("sentence-similarity").load(folder, False)


def test_a_layer_without_safetensors_names_what_to_do(encoder: Path, tmp_path: Path) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", {FLAGS["mean"]: True}), ("Dense", DENSE)])
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="load and save the folder with sentence-transformers"):
        find_craft("sentence-similarity").load(folder, False)


def test_a_changed_layer_makes_another_checkpoint(encoder: Path, tmp_path: Path) -> None:
    folder = _folder(encoder, tmp_path / "it", [("Pooling", {FLAGS["mean"]: True}), ("Dense", DENSE)])
    before = find_checkpoint(str(folder)).digest
    assert find_checkpoint(str(folder)).digest == before
    path = folder / "2_Dense/model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    assert find_checkpoint(str(folder)).digest != before


@pytest.mark.parametrize("order", [["max", "cls"], ["cls", "max"], ["mean"]])
def test_a_student_is_written_with_its_poolings_in_their_order(encoder: Path, order: list[str], tmp_path: Path) -> None:
    pooling = {"pooling_mode": order, "word_embedding_dimension": 32}
    teacher = _folder(encoder, tmp_path / "teacher", [("Pooling", pooling)])
    spec, reader = StudentSpec("transformer", 0, 300, layers=1), SentenceEncoder.load(teacher, 32)
    student = build(spec, teacher, reader, TEXTS, torch.eye(32 * len(order)), 32)
    out = tmp_path / "student"
    write(out, student, teacher, spec, {"reads": 32, "licence": ""})
    assert read_recipe(out).pooling == tuple(order)
    vectors = SentenceEncoder.load(out, 32).vectors(TEXTS)
    np.testing.assert_allclose(vectors, student.vectors(TEXTS), atol=1e-5)
