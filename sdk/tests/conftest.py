"""Real bundles, small: an ONNX model of a few hundred bytes, a trained tokenizer, golden examples, signed."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from doorstep.bundle import MANIFEST, SIGNATURE, seal
from doorstep.device import Device, installed_engines
from doorstep.golden import flatten
from doorstep.manifest import FORMAT, Manifest, Variant
from doorstep.predictor import Predictor
from doorstep.signing import TRUST_VARIABLE, TrustKey, keygen, sign_manifest
from doorstep.tensors import TensorSpec

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it

LABELS = ("negative", "neutral", "positive")
PAIR_INPUTS = tuple(
    TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask", "token_type_ids")
)
RANK_OUTPUTS = (TensorSpec("logits", "float32", ("batch", 1)),)
SENTENCES = (
    "arrived in two days, love it",
    "the parcel never came and nobody answered",
    "is the oat milk back in stock",
    "配送很快，包装也很好",
    "质量太差了，要求退款",
)
INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
SOUND = (TensorSpec("waveform", "float32", ("batch", "samples")), TensorSpec("lengths", "int64", ("batch",)))
OUTPUTS = (TensorSpec("logits", "float32", ("batch", len(LABELS))),)
VARIANTS = ("onnx-fp32", "onnx-int8")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the machine's own trust keys and variables out of the tests."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in (TRUST_VARIABLE, "DOORSTEP_CACHE", "DOORSTEP_VARIANT", "DOORSTEP_THREADS", "DOORSTEP_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("DOORSTEP_RACE", raising=False)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys: `ours` and `theirs`, the public halves with `.pub`."""
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "ours")
    keygen(folder / "theirs")
    return folder


@pytest.fixture(scope="session")
def trust(keys: Path) -> TrustKey:
    return TrustKey.load(keys / "ours.pub")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def text_model(words: int) -> bytes:
    """Return an ONNX model that adds up one row of scores a token, masked."""
    table = np.random.default_rng(5).normal(size=(words, len(LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["scores", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["logits"], keepdims=0),
    ]
    constants = {"table": table, "last": np.array([-1]), "axis": np.array([1])}
    return _model(nodes, constants, INPUTS, OUTPUTS)


def average_model(table: np.ndarray, head: np.ndarray, bias: np.ndarray, is_bent: bool = False) -> bytes:
    """Return an ONNX model of a linear layer over the average of token vectors; `is_bent` puts a ReLU between."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
        helper.make_node("Mul", ["vectors", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["counts"], keepdims=0),
        helper.make_node("Max", ["counts", "one"], ["least"]),
        helper.make_node("Div", ["sums", "least"], ["average"]),
        helper.make_node("Relu" if is_bent else "Identity", ["average"], ["pooled"]),
        helper.make_node("Gemm", ["pooled", "head", "bias"], ["logits"]),
    ]
    constants = {
        "table": table, "head": head, "bias": bias, "last": np.array([-1]), "axis": np.array([1]),
        "one": np.array([1], np.float32),
    }  # fmt: skip
    return _model(nodes, constants, INPUTS, (TensorSpec("logits", "float32", ("batch", len(bias))),))


def picture_model() -> bytes:
    """Return an ONNX model whose logits are the means of red, green and blue of pictures [batch, 4, 4, 3]."""
    nodes = [helper.make_node("ReduceMean", ["pixels"], ["logits"], axes=[1, 2], keepdims=0)]
    return _model(nodes, {}, (TensorSpec("pixels", "float32", ("batch", 4, 4, 3)),), OUTPUTS)


def sum_model() -> bytes:
    """Return an ONNX model that sums rows of any length."""
    nodes = [helper.make_node("ReduceSum", ["values", "axis"], ["sums"], keepdims=0)]
    inputs = (TensorSpec("values", "float32", ("batch", "length")),)
    return _model(nodes, {"axis": np.array([1])}, inputs, (TensorSpec("sums", "float32", ("batch",)),))


def sound_model(is_speech: bool) -> bytes:
    """Return an ONNX model of 8 kHz sound that hears a low tone (400 Hz) and a high one (1600 Hz).

    It answers `low` or `high`; for speech it writes a frame of 10 ms as `a`, `b` or nothing.
    """
    time = np.arange(80) / 8000
    waves = [f(2 * np.pi * hertz * time) for hertz in (400, 1600) for f in (np.cos, np.sin)]
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "one"], ["mono"]),
        helper.make_node("Conv", ["mono", "waves"], ["parts"], strides=[80]),  # [batch, 4, frames]
        helper.make_node("Mul", ["parts", "parts"], ["power"]),
        helper.make_node("Conv", ["power", "pairs", "floor"], ["heard"]),  # [batch, 2 or 3, frames]
    ]
    lengths = [
        helper.make_node("Cast", ["lengths"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "one"], ["counts"]),
    ]
    constants = {"one": np.array([1]), "waves": np.array(waves, np.float32)[:, None]}
    if is_speech:
        constants["pairs"] = np.array([[0] * 4, [1, 1, 0, 0], [0, 0, 1, 1]], np.float32)[:, :, None] * 0.05
        constants["floor"] = np.array([2, 0, 0], np.float32)
        nodes.append(helper.make_node("Transpose", ["heard"], ["logits"], perm=[0, 2, 1]))
        outputs = (TensorSpec("logits", "float32", ("batch", "frames", 3)),)
    else:
        constants["pairs"] = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32)[:, :, None]
        constants["floor"] = np.zeros(2, np.float32)
        nodes += [
            helper.make_node("ReduceSum", ["heard", "two"], ["sums"], keepdims=0),
            *lengths,
            helper.make_node("Div", ["sums", "counts"], ["logits"]),
        ]
        constants["two"] = np.array([2])
        outputs = (TensorSpec("logits", "float32", ("batch", 2)),)
    return _model(nodes, constants, SOUND, outputs)


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        *[
            [
                helper.make_tensor_value_info(
                    spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
                )
                for spec in specs
            ]
            for specs in (inputs, outputs)
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bundle(tokenizer: Tokenizer) -> MakeBundle:
    """Return a function that writes a sealed bundle of text classification; keywords replace the manifest's fields."""

    def make(folder: Path, *, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
        contents = {
            "tokenizer.json": tokenizer.to_str().encode(),
            "golden.json": b'{"format": 1, "examples": [], "tolerances": {}}',
            **{f"variants/{name}/model.onnx": text_model(tokenizer.get_vocab_size()) for name in VARIANTS},
            **(files or {}),
        }
        for path, data in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        head = Manifest(
            format=FORMAT,
            name="reviews",
            version="1",
            created="2025-01-01T00:00:00Z",
            task="text-classification",
            options={"labels": LABELS, "max_length": 32},
            files=(),
            variants=tuple(variant_of(name) for name in VARIANTS),
        )
        seal(folder, replace(head, **changes))
        return folder

    return make


def variant_of(name: str, **changes: Any) -> Variant:
    entry = f"variants/{name}/model.onnx"
    recipe = "none" if name == "onnx-fp32" else "dynamic_wi8_afp32"
    made = Variant(name, "onnx", recipe, entry, (entry,), INPUTS, OUTPUTS, {"onnxruntime": "1.17"})
    return replace(made, **changes)


@pytest.fixture(scope="session")
def make_variant() -> Callable[..., Variant]:
    """Return `variant_of`: a name, and fields to replace."""
    return variant_of


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, keys: Path, make_bundle: MakeBundle) -> Path:
    """A signed bundle with golden examples; tests get copies of it."""
    draft = make_bundle(tmp_path_factory.mktemp("draft"))
    with Predictor.load(draft, variant="onnx-fp32") as predictor:
        examples = [{"item": text, "expected": flatten(predictor.predict(text))} for text in SENTENCES]
    golden = {"format": 1, "examples": examples, "tolerances": dict.fromkeys(VARIANTS, 1e-4)}
    files = {"golden.json": json.dumps(golden, ensure_ascii=False).encode()}
    folder = make_bundle(tmp_path_factory.mktemp("template") / "reviews.bundle", files=files)
    (folder / SIGNATURE).write_bytes(sign_manifest((folder / MANIFEST).read_bytes(), keys / "ours"))
    return folder


@pytest.fixture(scope="session")
def make_average() -> Callable[..., bytes]:
    """Return `average_model`."""
    return average_model


@pytest.fixture
def make_fields(tmp_path: Path, make_bundle: MakeBundle) -> Callable[[list[dict[str, Any]], bool], Path]:
    """Return a function that writes a bundle over four numbers: a linear model, or one that bends (a sine)."""

    def make(fields: list[dict[str, Any]], is_bent: bool) -> Path:
        feeds = tuple(TensorSpec(name, "float32", ("batch", 4)) for name in ("numbers", "missing"))
        nodes = [
            helper.make_node("Add", ["missing", "missing"], ["ignored"]),
            helper.make_node("Gemm", ["numbers", "head", "bias"], ["sums"]),
            helper.make_node("Sin" if is_bent else "Identity", ["sums"], ["logits"]),
        ]
        head = np.linspace(-2, 3, 12, dtype=np.float32).reshape(4, 3)
        model = _model(nodes, {"head": head, "bias": np.ones(3, np.float32)}, feeds, OUTPUTS)
        return make_bundle(
            tmp_path / "fields", task="tabular-classification", files={"variants/onnx-fp32/model.onnx": model},
            options={"labels": LABELS, "fields": fields, "is_linear": True},
            variants=(variant_of("onnx-fp32", inputs=feeds),),
        )  # fmt: skip

    return make


class Average(NamedTuple):
    """A bundle of linear models, and what they are made of; `onnx-int8` has a ReLU in between, and is not linear."""

    folder: Path
    table: np.ndarray
    head: np.ndarray
    bias: np.ndarray


@pytest.fixture(scope="session")
def average(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle, tokenizer: Tokenizer) -> Average:
    random = np.random.default_rng(11)
    table, head, bias = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((tokenizer.get_vocab_size(), 6), (6, len(LABELS)), (len(LABELS),))
    )
    made = {
        f"variants/{name}/model.onnx": average_model(table, head, bias, is_bent=name == "onnx-int8")
        for name in VARIANTS
    }
    options = {"labels": LABELS, "max_length": 16, "is_linear": True}
    return Average(make_bundle(tmp_path_factory.mktemp("average"), files=made, options=options), table, head, bias)


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    """A signed bundle of this test's own."""
    return Path(shutil.copytree(template, tmp_path / "reviews.bundle"))


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """Return a function that edits a bundle's manifest: `rewrite(bundle, lambda plain: …)`, unsigned afterwards."""

    def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        plain = json.loads((folder / MANIFEST).read_bytes())
        change(plain)
        (folder / MANIFEST).write_text(json.dumps(plain, ensure_ascii=False))

    return edit


@pytest.fixture(scope="session")
def picture_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    inputs = (TensorSpec("pixels", "float32", ("batch", 4, 4, 3)),)
    return make_bundle(
        tmp_path_factory.mktemp("pictures"),
        files={"variants/onnx-fp32/model.onnx": picture_model()},
        task="image-classification",
        options={"labels": ["red", "green", "blue"], "width": 4, "height": 4, "scale": 1 / 255},
        variants=(variant_of("onnx-fp32", inputs=inputs),),
    )


@pytest.fixture(scope="session")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    """A bundle that tells a low tone from a high one."""
    return make_bundle(
        tmp_path_factory.mktemp("sounds"),
        files={"variants/onnx-fp32/model.onnx": sound_model(is_speech=False)},
        task="audio-classification",
        options={"labels": ["low", "high"], "rate": 8000, "max_seconds": 5.0, "min_samples": 400},
        variants=(variant_of("onnx-fp32", inputs=SOUND, outputs=(TensorSpec("logits", "float32", ("batch", 2)),)),),
    )


@pytest.fixture(scope="session")
def speech_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    """A bundle that writes a low tone as `a`, a high one as `b`."""
    outputs = (TensorSpec("logits", "float32", ("batch", "frames", 3)),)
    return make_bundle(
        tmp_path_factory.mktemp("speech"),
        files={"variants/onnx-fp32/model.onnx": sound_model(is_speech=True)},
        task="automatic-speech-recognition",
        options={"tokens": ["", "a", "b"], "blank": 0, "frame_seconds": 0.01, "rate": 8000, "min_samples": 400},
        variants=(variant_of("onnx-fp32", inputs=SOUND, outputs=outputs),),
    )


@pytest.fixture(scope="session")
def tensor_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    inputs = (TensorSpec("values", "float32", ("batch", "length")),)
    outputs = (TensorSpec("sums", "float32", ("batch",)),)
    return make_bundle(
        tmp_path_factory.mktemp("tensors"),
        files={"variants/onnx-fp32/model.onnx": sum_model()},
        task="tensors",
        options={},
        variants=(variant_of("onnx-fp32", inputs=inputs, outputs=outputs),),
    )


def lexical_model() -> bytes:
    """Return an ONNX model whose logit is how many tokens query and text have in common, less one."""
    nodes = [
        helper.make_node("Greater", ["input_ids", "special"], ["is_word"]),
        helper.make_node("Cast", ["is_word"], ["word"], to=TensorProto.INT64),
        helper.make_node("Mul", ["word", "token_type_ids"], ["of_text"]),
        helper.make_node("Sub", ["word", "of_text"], ["of_query"]),
        helper.make_node("Unsqueeze", ["input_ids", "last"], ["down"]),
        helper.make_node("Unsqueeze", ["input_ids", "middle"], ["across"]),
        helper.make_node("Equal", ["down", "across"], ["is_same"]),
        helper.make_node("Cast", ["is_same"], ["same"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["of_query", "last"], ["query_down"]),
        helper.make_node("Unsqueeze", ["of_text", "middle"], ["text_across"]),
        helper.make_node("Mul", ["same", "query_down"], ["from_query"]),
        helper.make_node("Mul", ["from_query", "text_across"], ["common"]),
        helper.make_node("ReduceSum", ["common", "axes"], ["count"], keepdims=0),
        helper.make_node("Unsqueeze", ["count", "last"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["found"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["found", "one"], ["logits"]),
    ]
    constants = {
        "special": np.array([3]), "last": np.array([-1]), "middle": np.array([1]), "axes": np.array([1, 2]),
        "one": np.array([1], np.float32),
    }  # fmt: skip
    places = [
        [helper.make_tensor_value_info(s.name, kind, list(s.shape)) for s in specs]
        for specs, kind in ((PAIR_INPUTS, TensorProto.INT64), (RANK_OUTPUTS, TensorProto.FLOAT))
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", *places, weights)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def pair_tokenizer(tokenizer: Tokenizer) -> bytes:
    made = Tokenizer.from_str(tokenizer.to_str())
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str().encode()


@pytest.fixture(scope="session")
def ranking_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle, pair_tokenizer: bytes) -> Path:
    return make_bundle(
        tmp_path_factory.mktemp("ranking"),
        files={"variants/onnx-fp32/model.onnx": lexical_model(), "tokenizer.json": pair_tokenizer},
        task="text-ranking",
        options={"max_length": 32},
        variants=(variant_of("onnx-fp32", inputs=PAIR_INPUTS, outputs=RANK_OUTPUTS),),
    )


@pytest.fixture
def device() -> Device:
    """A plain x86-64 machine that has every engine installed here."""
    return Device("x86_64", "a CPU", frozenset({"avx2", "fma"}), 2, 4096, installed_engines())
