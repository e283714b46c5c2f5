"""Everything that trains or asks a model, on a GPU; skipped where there is none."""

import gc
import io
import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification

from doorstep.tasks.tabular_classification import Field
from doorstep_converters.ask import ask
from doorstep_converters.distill import train as distil
from doorstep_converters.export.classifier import load_model
from doorstep_converters.finetune.train import train as finetune
from doorstep_converters.placement import load_teacher
from doorstep_converters.students.build import make
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.images_new import NewNetwork
from doorstep_converters.tasks.sentence_similarity_learning import learn
from doorstep_converters.tasks.sentence_similarity_students import student_spec
from doorstep_converters.teach import answer
from doorstep_converters.worker import Channel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

Make = Callable[[str], Path]
LABELS = ["buy", "return", "ask", "complain"]
WORDS = {"buy": "a b c", "return": "d e f", "ask": "g h i", "complain": "w y s"}
SETTINGS = {"seed": 1, "epochs": 2, "learning_rate": 1e-3, "is_pickle_allowed": False}


@pytest.fixture(autouse=True)
def _on_the_gpu() -> Iterator[None]:
    """See that the test had something computed there."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    assert torch.cuda.max_memory_allocated() > before


def channel() -> Channel:
    return Channel(io.StringIO())


def _rows(count: int, seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        label = LABELS[place % 4]
        rows.append([f"{generator.choice(WORDS[label].split())} {generator.integers(100)}", label])
    return rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"train": _rows(128, 1), "dev": _rows(32, 2)}), encoding="utf-8")
    return path


def _finite(folder: Path) -> None:
    """The checkpoint's weights are fp32 and numbers."""
    for name, weight in load_file(folder / "model.safetensors").items():
        assert weight.dtype in (torch.float32, torch.int64), name
        assert torch.isfinite(weight.float()).all(), name


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", ["full", "lora", "adalora", "adapter", "prefix", "prompt", "head"])
def test_every_way_to_finetune(method: str, precision: str, make_checkpoint: Make, table: Path, tmp_path: Path) -> None:
    found = finetune(
        tmp_path / "out", channel(), str(make_checkpoint("bert")), str(table), LABELS, 32,
        {**SETTINGS, "method": method, "precision": precision},
    )  # fmt: skip
    assert found["peak_gpu_mib"] > 0
    _finite(tmp_path / "out/checkpoint")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_mixed_embeddings(method: str, make_checkpoint: Make, table: Path, tmp_path: Path) -> None:
    options = {**SETTINGS, "method": method, "mixup": 0.3}
    finetune(tmp_path / "out", channel(), str(make_checkpoint("bert")), str(table), LABELS, 32, options)
    _finite(tmp_path / "out/checkpoint")


def test_bf16_learns_what_fp32_learns(make_checkpoint: Make, table: Path, tmp_path: Path) -> None:
    figures = {}
    for precision in ("fp32", "bf16"):
        options = {**SETTINGS, "learning_rate": 3e-3, "epochs": 60, "precision": precision, "method": "full"}
        out = tmp_path / precision
        figures[precision] = finetune(out, channel(), str(make_checkpoint("bert")), str(table), LABELS, 32, options)
    assert figures["fp32"]["dev_accuracy"] > 0.6  # 0.25 by chance
    assert abs(figures["bf16"]["dev_accuracy"] - figures["fp32"]["dev_accuracy"]) < 0.2


def test_a_gpu_answers_as_the_cpu(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, texts = make_checkpoint("bert"), [text for text, _ in _rows(40, 3)]
    on_gpu = ask(folder, texts, 32, lambda share: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert np.abs(on_gpu - ask(folder, texts, 32, lambda share: None)).max() < 1e-4


def test_layers_that_lie_elsewhere_answer_alike(make_checkpoint: Make) -> None:
    folder = make_checkpoint("bert")
    spread = {"bert.embeddings": "cpu", "bert.encoder.layer.0": 0, "bert.encoder.layer.1": "cpu", "bert.pooler": 0,
              "dropout": 0, "classifier": 0}  # fmt: skip
    ids = torch.arange(3, 40)[None].cuda()
    with torch.no_grad():
        whole = load_teacher(folder)(input_ids=ids).logits.cpu()
        parts = load_teacher(folder, device_map=spread)(input_ids=ids).logits.cpu()
    assert torch.allclose(whole, parts, atol=1e-4)


def test_a_batch_too_large_for_the_gpu_is_halved(make_checkpoint: Make) -> None:
    said: list[str] = []
    texts = ["milk " * 120] * 4096
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (24 << 20)) / total)
    try:
        found = ask(make_checkpoint("bert"), texts[:512], 128, lambda share: None, say=said.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(found) == 512
    assert any("out of memory: went on in batches of" in line for line in said)


@pytest.mark.parametrize("student", [("cnn", 16, 200, 1, 16, 0), ("bilstm", 16, 200, 1, 16, 0),
                                     ("hashed", 16, 64, 1, 16, 0), ("static", 16, 200, 1, 0, 16),
                                     ("transformer", 0, 300, 1, 0, 0)], ids=lambda spec: spec[0])  # fmt: skip
def test_students_learn_from_a_teacher(student: Any, make_checkpoint: Make, table: Path, tmp_path: Path) -> None:
    teacher, corpus = str(make_checkpoint("bert")), tmp_path / "corpus.jsonl"
    rows = _rows(128, 1)
    corpus.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    (tmp_path / "texts.json").write_text(json.dumps([text for text, _ in rows]))
    for name in ("taught", "built", "out"):
        (tmp_path / name).mkdir()
    extras = ["vector", "relations"] if student[0] == "transformer" else ["vector"]
    labels = answer(tmp_path / "taught", channel(), teacher, str(corpus), 32, extras)["labels"]
    spec = dict(zip(("kind", "width", "vocabulary", "layers", "filters", "head"), student, strict=True))
    make(tmp_path / "built", channel(), teacher, spec, str(tmp_path / "texts.json"), labels, 1)
    weights = {"vector": 1.0, "relations": float("relations" in extras)}
    options = {"steps": 30, "saves": 2, "max_length": 32, "weights": weights, "bits": {"tables": 4, "dense": 8}}
    found = distil(
        tmp_path / "out", channel(), str(tmp_path / "built/checkpoint"), str(tmp_path / "taught"), str(table), options
    )
    assert found["steps"] == 30
    _finite(tmp_path / "out/checkpoint")


def _train(task: str, out: Path, checkpoint: Path | None, data: Any, **options: Any) -> Any:
    out.mkdir()
    shared = {"seed": 1, "epochs": 2, "learning_rate": None, "max_length": 32, "precision": "auto", "teacher": ""}
    return find_craft(task).train(out, channel(), checkpoint, data, {**shared, **options})


def test_token_heads(encoder_only: Path, tmp_path: Path) -> None:
    rows = [
        {"text": f"{color} lamp {n}", "spans": [[0, len(color), "color"]]}
        for n, color in enumerate(["red", "blue"] * 20)
    ]
    data = {"train": rows, "dev": rows[:8]}
    _train("token-classification", tmp_path / "teacher", encoder_only, data)
    for student in ("cnn-1l-16w-16f", "bilstm-16w-16f", "transformer-1l"):
        labels = ["O", "B-color", "I-color"]
        taught = {"student": student, "teacher": str(tmp_path / "teacher"), "labels": labels}
        _train("token-classification", tmp_path / student, None, data, **taught)
        _finite(tmp_path / student)


def test_pictures(tmp_path: Path) -> None:
    rows = []
    for place in range(24):
        pixels = np.full((40, 40, 3), 40 + 160 * (place % 2), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        rows.append([str(tmp_path / f"{place}.png"), ["dark", "light"][place % 2]])
    data, source = {"train": rows, "dev": rows[:6]}, tmp_path / "source"
    shape: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**shape)).save_pretrained(source)
    NewNetwork("resnet", 8, 32).write_processor(source)
    for method in ("full", "head"):
        _train("image-classification", tmp_path / method, source, data, method=method, labels=["dark", "light"])
        _finite(tmp_path / method)
    options = {
        "method": "full",
        "labels": ["dark", "light"],
        "new": "resnet-8w-32px",
        "teacher": str(tmp_path / "full"),
    }
    _train("image-classification", tmp_path / "taught", None, data, **options)
    _finite(tmp_path / "taught")


def test_rankings(encoder_only: Path, tmp_path: Path) -> None:
    rows = [
        {"query": f"lamp {n}", "texts": [f"lamp {n}", "milk", "cart"], "relevant": [0], "missing": 0} for n in range(16)
    ]
    _train("text-ranking", tmp_path / "out", encoder_only, {"train": rows, "dev": rows[:4]})
    _finite(tmp_path / "out")


def test_next_items(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    generator = np.random.default_rng(1)
    lines = []
    for user in range(60):
        start = int(generator.integers(20))
        lines.append(json.dumps({"user": str(user), "items": [f"i{(start + step) % 20}" for step in range(6)]}))
    (tmp_path / "data/sequences.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    from doorstep_converters.tasks.next_item_data import read_sequences

    found = read_sequences(tmp_path / "data/sequences.jsonl")
    data = json.loads(
        json.dumps({name: getattr(found, name) for name in ("train", "dev", "learnt", "items", "fields")})
    )
    _train("next-item", tmp_path / "teacher", None, data, kind="attention")
    for kind in ("small", "static"):
        _train("next-item", tmp_path / kind, tmp_path / "teacher", data, kind=kind)
        _finite(tmp_path / kind)


def _sound(path: Path, hertz: int) -> str:
    samples = (8000 * np.sin(np.arange(4000) * hertz * 2 * np.pi / 8000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())
    return str(path)


@pytest.mark.parametrize("is_ctc", [False, True], ids=["commands", "letters"])
def test_recordings(is_ctc: bool, tmp_path: Path) -> None:
    rows = [{"file": _sound(tmp_path / f"{n}.wav", 300 + 900 * (n % 2)), "truth": ["a", "b"][n % 2]} for n in range(16)]
    task = "automatic-speech-recognition" if is_ctc else "audio-classification"
    options = {
        "is_ctc": is_ctc, "names": ["", "|", "a", "b"] if is_ctc else ["a", "b"], "blank": 0, "rate": 8000,
        "spec": [1, 16, 8], "shortest": 480,
    }  # fmt: skip
    data = {"train": rows, "dev": rows[:4]}
    _train(task, tmp_path / "teacher", None, data, **options)
    _train(task, tmp_path / "student", None, data, **{**options, "teacher": str(tmp_path / "teacher")})
    for name in ("teacher", "student"):
        _finite(tmp_path / name)


def test_rows_of_fields(tmp_path: Path) -> None:
    """A network learns alone, and from trees, which stay on the CPU."""
    pytest.importorskip("skl2onnx")
    generator = np.random.default_rng(1)
    values = generator.uniform(0, 1, 200)
    rows = [[{"value": float(v), "month": ["May", "Dec"][n % 2]}, str(int(v > 0.5))] for n, v in enumerate(values)]
    number, category = Field("value", "number", quantiles=(0.0, 0.5, 1.0)), Field("month", "category", ("Dec", "May"))
    fields = [number._asdict(), category._asdict()]
    data, known = {"train": rows, "dev": rows[:40]}, {"fields": fields, "labels": ["0", "1"]}
    _train("tabular-classification", tmp_path / "trees", None, data, kind="trees", **known)
    for name, teacher in (("alone", ""), ("taught", str(tmp_path / "trees"))):
        options = {"kind": "mlp", "teacher": teacher, "epochs": 20, **known}
        _train("tabular-classification", tmp_path / name, None, data, **options)
        _finite(tmp_path / name)
        craft = find_craft("tabular-classification")
        plan = {"calibration": []}
        answers = craft.answer(tmp_path / name, [item for item, _ in rows], tmp_path, plan).answers
        assert craft.figure(answers, [label for _, label in rows]) > 0.9  # 0.5 by chance


@pytest.mark.parametrize("student", ["static-16w-300v", "transformer-1l-300v"])
def test_sentence_encoders(student: str, encoder_only: Path, tmp_path: Path) -> None:
    """Vectors come from the GPU, and a student comes nearer to them by learning there."""
    texts = [f"{color} {thing} {n}" for n in range(30) for color in ("red", "blue") for thing in ("lamp", "手机")]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    for name in ("taught", "out"):
        (tmp_path / name).mkdir()
    answer(tmp_path / "taught", channel(), str(encoder_only), str(corpus), 32, is_encoder=True)
    options = {
        "seed": 1, "epochs": 10, "learning_rate": None, "train": 80, "dev": 20, "max_length": 32, "reads": 32,
        "licence": "", "name": "teacher", "is_pickle_allowed": False,
    }  # fmt: skip
    spec = asdict(student_spec(f"new:{student}"))
    found = learn(tmp_path / "out", channel(), str(encoder_only), str(tmp_path / "taught"), spec, options)
    assert found["after"]["cosine"] > found["before"]["cosine"]
    _finite(tmp_path / "out/checkpoint")


def test_a_checkpoint_from_the_gpu_is_one_for_the_cpu(make_checkpoint: Make, table: Path, tmp_path: Path) -> None:
    options = {**SETTINGS, "method": "full"}
    finetune(tmp_path / "out", channel(), str(make_checkpoint("bert")), str(table), LABELS, 32, options)
    model = load_model(tmp_path / "out/checkpoint")
    assert next(model.parameters()).device.type == "cpu"
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=torch.arange(3, 20)[None]).logits).all()
