"""Students of a sentence encoder: what they learn, how it is told, in every engine, and what is refused."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from doorstep import Predictor
from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep.golden import compare, load_golden
from doorstep.predictor import LoadOptions
from doorstep_converters import teach
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.sentence_similarity_encoder import SentenceEncoder
from doorstep_converters.tasks.sentence_similarity_learning import learn, overlap
from doorstep_converters.tasks.sentence_similarity_students import Texts, student_spec
from doorstep_converters.taught import open_taught
from doorstep_converters.worker import Channel

SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "type_vocab_size": 2, "initializer_range": 0.1,
}  # fmt: skip
VARIANTS = ("onnx-fp32", "onnx-int8-weights", "openvino-fp16", "tflite-fp16", "numpy-fp16")
OF_TRANSFORMER = ("onnx-fp32", "openvino-fp16", "numpy-fp16")


@pytest.fixture(scope="module")
def teacher(make_tokenizer: Callable[[str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sentence-transformers folder: mean and max pooling, a linear layer, prompts."""
    folder = tmp_path_factory.mktemp("teacher") / "bert"
    torch.manual_seed(7)
    AutoModel.from_config(AutoConfig.for_model("bert", **SMALL)).save_pretrained(folder)
    make_tokenizer("wordpiece").save_pretrained(folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    plain = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(plain))
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir()
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    activation = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": 64, "out_features": 24, "bias": True, "activation_function": activation}
    (folder / "2_Dense/config.json").write_text(json.dumps(dense))
    from safetensors.torch import save_file

    layer = torch.nn.Linear(64, 24).state_dict()
    save_file({f"linear.{name}": part for name, part in layer.items()}, folder / "2_Dense/model.safetensors")
    prompts = {"prompts": {"query": "is the ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return 240 different texts, some Chinese."""
    things = ["milk", "shoes", "手机壳", "a lamp", "椅子", "tea", "size 10 boots", "headphones", "SKU-77", "电池"]
    forms = ["I want to buy {}", "我想买{}", "add {} please", "send back {}", "how much is {}", "{} broke, terrible"]
    ends = ["", " now", "!", " 谢谢"]
    return [form.format(thing) + end for form, thing, end in product(forms, things, ends)]


@pytest.fixture(scope="module")
def data(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of texts, without labels."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalogue with test queries."""
    folder = tmp_path_factory.mktemp("shop")
    products = [{"id": f"p{place}", "name": text} for place, text in enumerate(texts)]
    queries = [{"query": f"the {row['name']}", "relevant": [row["id"]]} for row in products[::5]]
    for name, rows in (("corpus", products), ("queries_test", queries)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def taught(texts: list[str], teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the teacher's vectors of the texts."""
    out = tmp_path_factory.mktemp("taught")
    (out / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in _turned(texts)))
    (out / "taught").mkdir()
    with open(out / "messages", "w", encoding="utf-8") as stream:
        teach.answer(out / "taught", Channel(stream), str(teacher), str(out / "corpus.jsonl"), 32, is_encoder=True)
    return out / "taught"


def _turned(texts: list[str]) -> list[str]:
    return [text for start in range(7) for text in texts[start::7]]


def _learn(out: Path, teacher: Path, taught: Path, student: str, **changes: Any) -> dict[str, Any]:
    options = {
        "seed": 1, "epochs": 20, "learning_rate": None, "train": 160, "dev": 30, "max_length": 32, "reads": 32,
        "licence": "mit", "name": "bert", "is_pickle_allowed": False, **changes,
    }  # fmt: skip
    spec = student_spec(student)
    plain = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    with open(out / "messages", "w", encoding="utf-8") as stream:
        return learn(out, Channel(stream), str(teacher), str(taught), plain, options)


def _job(checkpoint: str, teacher: Path | str | None, data: Path | None, out: Path, **changes: Any) -> Job:
    training = Training(teacher=str(teacher) if teacher else None, epochs=changes.pop("epochs", 10), seed=1)
    task = changes.pop("task", "sentence-similarity")
    return Job(checkpoint, "x86-64-vnni", out, task=task, data=data, training=training, max_length=32, **changes)


def _convert(checkpoint: str, teacher: Path, data: Path, out: Path, cache: Path, **changes: Any) -> Report:
    return convert(_job(checkpoint, teacher, data, out, cache=cache, **changes), Lines())


def test_the_teachers_vectors_are_those_of_its_folder(taught: Path, texts: list[str], teacher: Path) -> None:
    """Pooled twice and put through the linear layer, one text at a time, as the convert of an encoder does."""
    found = open_taught(taught)
    plan = {"max_length": 32, "is_pickle_allowed": False, "options": {"is_normalized": False}, "progress": lambda _: 0}
    tokenizer = SentenceEncoder.load(teacher, 32).tokenizer
    craft: Any = find_craft("sentence-similarity")
    expected = craft.encode(teacher, tokenizer, _turned(texts)[:20], plan)
    np.testing.assert_allclose(found["vector"][:20], expected, atol=2e-3)
    assert found["text"][:] == _turned(texts)


@pytest.mark.parametrize(
    ("student", "options", "gains"),
    [
        ("new:static-16w-400v", {"epochs": 60}, {"cosine": 0.8, "overlap": 0.2}),
        ("new:transformer-1l-400v", {"learning_rate": 1e-3}, {"cosine": 0.5}),
    ],
)
def test_a_student_comes_nearer_to_its_teacher_on_texts_that_it_did_not_learn(
    student: str, options: dict[str, Any], gains: dict[str, float], teacher: Path, taught: Path, tmp_path: Path
) -> None:
    found = _learn(tmp_path, teacher, taught, student, **options)
    before, after = found["before"], found["after"]
    # of the way from where it began to the teacher's own figure, which is 1
    way = {name: (after[name] - before[name]) / (1 - before[name]) for name in gains}
    assert all(way[name] > gain for name, gain in gains.items()), (before, after, way)
    assert f"{after['overlap']:.4f} (untaught {before['overlap']:.4f})" in found["notes"][0]


def test_the_same_seed_makes_the_same_student(teacher: Path, taught: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        _learn(tmp_path / name, teacher, taught, "new:static-16w-400v", seed=seed, epochs=2)
        weights.append((tmp_path / name / "checkpoint/model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_students_first_numbers_say_most(teacher: Path, taught: Path, tmp_path: Path) -> None:
    """What Matryoshka cutting keeps: half of the numbers, the first ones, rank nearer to the teacher than the last."""
    _learn(tmp_path, teacher, taught, "new:static-24w-400v")
    corpus = open_taught(taught)
    vectors = SentenceEncoder.load(tmp_path / "checkpoint", 32).vectors(corpus["text"][:])
    wanted = np.array(corpus["vector"][:], np.float32)
    assert overlap(vectors[:, :12], wanted) > overlap(vectors[:, 12:], wanted) + 0.1


def test_neighbours_are_compared_across_widths() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((50, 8)).astype(np.float32)
    wider = np.concatenate([vectors, np.zeros((50, 5), np.float32)], axis=1)
    assert overlap(vectors, 3 * wider) == 1.0
    assert overlap(vectors, generator.standard_normal((50, 8)).astype(np.float32)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "variants", "width"),
    [("new:static-16w-400v", VARIANTS, 16), ("new:transformer-1l-400v", OF_TRANSFORMER, 24)],
)
def test_a_students_vectors_agree_in_every_engine(
    student: str, variants: tuple[str, ...], width: int, teacher: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    report = _convert(student, teacher, data, tmp_path, cache, variants=variants)
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    assert report.manifest
    assert report.manifest.options["prompts"] == {"query": "is the "}
    assert report.manifest.options["default_prompt"] == "query"
    assert "(untaught " in report.manifest.provenance["taught"]
    for variant in variants:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            assert compare(predictor, load_golden(predictor.bundle)) == [], variant
            found = predictor.predict("oat milk").values
            assert len(found) == width
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    small = LoadOptions(task_options={"dimensions": 8, "precision": "binary"})
    with Predictor.load(report.bundle or "", options=small) as predictor:
        assert len(predictor.predict("oat milk").values) == 1


@pytest.mark.slow
def test_a_student_searches_a_catalogue(teacher: Path, shop: Path, cache: Path, tmp_path: Path) -> None:
    variants = ("onnx-fp32", "numpy-fp16")
    report = _convert("new:static-16w-400v", teacher, shop, tmp_path, cache, task="search", variants=variants)
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    with Predictor.load(report.bundle or "", variant="numpy-fp16") as predictor:
        assert predictor.predict("how much is 手机壳").hits[0].fields["name"].startswith("how much is 手机壳")


@pytest.mark.slow
def test_a_student_can_be_taught_by_a_student(teacher: Path, taught: Path, data: Path, tmp_path: Path) -> None:
    """A static student is a sentence-transformers folder like any other."""
    _learn(tmp_path, teacher, taught, "new:static-16w-400v", epochs=2)
    craft, out = find_craft("sentence-similarity"), tmp_path / "out"
    assert craft.find(_job(str(tmp_path / "checkpoint"), None, None, out)).licence == "mit"
    job = _job("new:static-8w-400v", tmp_path / "checkpoint", data, out, cache=tmp_path / "cache", epochs=2)
    report = convert(Job(**{**_fields(job), "variants": ("onnx-fp32",), "bound": Bound()}), Lines())
    assert report.bundle
    with pytest.raises(CheckpointError, match="convert new:static with it"):
        craft.find(_job("new:transformer-1l", tmp_path / "checkpoint", data, out))


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


def test_sizes_that_are_not_named_are_usual_ones() -> None:
    assert student_spec("new:static").name == "static-1l-256w-16384v"
    assert student_spec("new:static-64w").name == "static-1l-64w-16384v"
    assert student_spec("new:transformer-2l-8192v").name == "transformer-2l-8192v"


def test_no_held_out_text_is_learnt() -> None:
    found = Texts.of(Path("x"), [f"text {n}" for n in range(200)], [], [f"text {n}" for n in range(20)])
    assert not set(found.train) & {*found.dev, *found.test}
    assert not set(found.dev) & set(found.test)
    assert len(found.train) + len(found.dev) + len(found.test) == 200


@pytest.mark.parametrize(
    "student", ["new:cnn", "new:static-3l", "new:transformer-64w", "new:static-16v-16w", "new:static-w", "new:"]
)
def test_a_student_of_another_kind_or_size_is_refused(student: str, data: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected"):
        find_craft("sentence-similarity").find(_job(student, teacher, data, tmp_path))


@pytest.mark.parametrize("task", ["sentence-similarity", "search"])
def test_a_student_without_a_teacher_is_refused(task: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"new:static: a student learns from a teacher, got none; .* --teacher"):
        find_craft(task).find(_job("new:static", None, data, tmp_path, task=task))


def test_a_student_without_texts_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="learns from texts, got none; give them with --data"):
        find_craft("sentence-similarity").find(_job("new:static", teacher, None, tmp_path))


def test_a_teacher_of_another_task_is_refused(
    make_checkpoint: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    craft = find_craft("sentence-similarity")
    with pytest.raises(CheckpointError, match="expected a sentence encoder, got one of BertForSequenceClassification"):
        craft.find(_job("new:static", make_checkpoint("bert"), data, tmp_path))
    with pytest.raises(CheckpointError, match="expected a sentence encoder that is trained"):
        craft.find(_job("new:static", "new:trees", data, tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"doorstep_task": "next-item", "model_type": "doorstep-next"}))
    with pytest.raises(CheckpointError, match="expected a sentence encoder, got one of next-item"):
        craft.find(_job("new:static", tmp_path, data, tmp_path))


def test_too_few_texts_are_refused(teacher: Path, tmp_path: Path, cache: Path) -> None:
    rows = "".join(json.dumps({"text": f"text {n % 50}"}) + "\n" for n in range(400))
    (tmp_path / "few.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=r"few.jsonl: expected 100 different texts or more .* got \d+, \d+, \d+; add"):
        _convert("new:static", teacher, tmp_path / "few.jsonl", tmp_path / "out", cache)
