"""Small students: their answers, their tokenizers, their first weights, and every engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from doorstep.bundle import Bundle
from doorstep.errors import DataError, UsageError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.export.classifier import load_model
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.progress import Lines
from doorstep_converters.students import MODELS, register
from doorstep_converters.students.build import build_student
from doorstep_converters.students.fake_quant import Bits, finish_rounding, start_rounding
from doorstep_converters.students.relations import relation_loss
from doorstep_converters.students.space import principal, rareness
from doorstep_converters.students.spec import LADDER, StudentSpec
from doorstep_converters.students.vocabulary import (
    character_tokenizer,
    cut_tokenizer,
    student_tokenizer,
    tagger_tokenizer,
)
from doorstep_converters.tokenizer import load_tokenizer

LABELS = ("buy", "return", "ask", "complain")
SPECS = {
    "bilstm": StudentSpec("bilstm", 8, 200, filters=8, head=8),
    "cnn": StudentSpec("cnn", 8, 200, layers=2, filters=16, head=8),
    "hashed": StudentSpec("hashed", 8, 256, filters=8, head=8),
    "static": StudentSpec("static", 8, 200, head=8),
    "transformer": StudentSpec("transformer", 0, 200, layers=1),
}
ENGINES = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")
CHINESE = [text for text in (*PROBES, *SENTENCES) if "\u4e00" <= text[:1] <= "\u9fff"]


@pytest.fixture(scope="session")
def make_student(
    make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that builds, once, a student of a small random teacher."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("students") / kind
            teacher = find_checkpoint(str(make_checkpoint("bert")))
            build_student(made[kind], SPECS[kind], teacher, [*PROBES, *SENTENCES], LABELS, 3)
        return made[kind]

    return make


def logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Answer rows padded to the longest [rows, classes]."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])  # any token may stand in the padding
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        answer: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return answer


@pytest.mark.parametrize("model_type", MODELS)
def test_padding_changes_no_answer(model_type: str) -> None:
    register()
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, vocab_size=50, hidden_size=8, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    rows = [[2, 9, 17], [2], [2, 40, 41, 42, 43, 44, 45, 46], [2, 9, 17, 9, 17]]
    together = logits(model, rows)
    alone = torch.cat([logits(model, [row]) for row in rows])
    assert float((together - alone).abs().max()) < 1e-5
    assert float((together[0] - together[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("model_type", ["doorstep-bilstm", "doorstep-cnn", "doorstep-hashed"])
def test_the_order_of_the_tokens_matters(model_type: str) -> None:
    register()
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, vocab_size=50, hidden_size=8, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert float((logits(model, [[2, 9, 17, 30]]) - logits(model, [[2, 30, 9, 17]])).abs().max()) > 1e-3


def test_training_cannot_open_the_gates_that_padding_closes() -> None:
    register()
    config = AutoConfig.for_model("doorstep-bilstm", vocab_size=50, hidden_size=8, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.cell.weight_ih_l0_reverse.zero_()
        model.cell.bias_ih_l0_reverse.fill_(3.0)
    model.eval()
    assert float((logits(model, [[2, 9, 17], [2] * 9]) - logits(model, [[2, 9, 17]])).abs()[0].max()) < 1e-5


@pytest.mark.parametrize("spec", LADDER, ids=lambda spec: spec.name)
def test_a_students_name_can_be_read_back(spec: StudentSpec) -> None:
    assert StudentSpec.from_name(spec.name) == spec


def test_the_ladder_has_a_step_of_every_kind_and_no_step_twice() -> None:
    assert {spec.kind for spec in LADDER} == SPECS.keys()
    assert len({spec.name for spec in LADDER}) == len(LADDER)


@pytest.mark.parametrize("name", ["", "rnn-8w-9v", "cnn", "cnn-8x", "cnn-w8", "cnn--3w", "static-0w-100v", "cnn-٣w"])
def test_a_name_of_no_student_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="student"):
        StudentSpec.from_name(name)


def test_a_student_needs_texts(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    teacher = find_checkpoint(str(make_checkpoint("bert")))
    with pytest.raises(DataError, match="expected texts"):
        build_student(tmp_path / "student", SPECS["cnn"], teacher, [], LABELS, 3)


@pytest.mark.parametrize("kind", SPECS)
def test_the_same_seed_builds_the_same_student(
    kind: str, make_student: Callable[[str], Path], make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = find_checkpoint(str(make_checkpoint("bert")))
    build_student(tmp_path / "again", SPECS[kind], teacher, [*PROBES, *SENTENCES], LABELS, 3)
    built = find_checkpoint(str(make_student(kind)))
    assert find_checkpoint(str(tmp_path / "again")).digest == built.digest
    assert built.labels == tuple(LABELS)


@pytest.mark.parametrize("kind", SPECS)
def test_every_text_has_a_token_and_none_is_lost(kind: str, make_student: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(make_student(kind))
    rows = tokenizer([*PROBES, *SENTENCES], truncation=True, max_length=64)["input_ids"]
    assert all(rows)
    assert max(max(row) for row in rows) < load_model(make_student(kind)).config.vocab_size


def test_a_cut_tokenizer_reads_known_words_as_the_teacher_does(make_checkpoint: Callable[[str], Path]) -> None:
    teacher = load_tokenizer(make_checkpoint("bert"))
    cut, kept = cut_tokenizer(teacher, SENTENCES, 250)
    rows, expected = cut(list(SENTENCES))["input_ids"], teacher(list(SENTENCES))["input_ids"]
    assert [[kept[token] for token in row] for row in rows] == expected
    assert len(cut) == 250 < len(teacher)


def test_a_students_tokenizer_marks_the_start_and_nothing_else(make_checkpoint: Callable[[str], Path]) -> None:
    tokenizer = student_tokenizer(load_tokenizer(make_checkpoint("bert")), SENTENCES, 250)
    assert tokenizer.convert_ids_to_tokens(tokenizer("oat milk")["input_ids"])[0] == "[CLS]"
    assert tokenizer("")["input_ids"] == [tokenizer.cls_token_id]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_student_reads_full_width_signs_as_the_ordinary_ones(kind: str, make_tokenizer: Any) -> None:
    texts = [*SENTENCES, "size 42, oat milk!"] * 3
    tokenizer = student_tokenizer(make_tokenizer(kind), texts, 250)
    wide, plain = tokenizer(["ｓｉｚｅ　４２，　Ｏａｔ ｍｉｌｋ！", "size 42, oat milk!"])["input_ids"]
    assert wide == plain
    assert tokenizer.unk_token_id not in plain


def test_chinese_of_more_characters_than_the_vocabulary_holds_still_gets_one(
    make_checkpoint: Callable[[str], Path],
) -> None:
    rare = [chr(0x4E00 + place) for place in range(600)]
    texts = [f"这个商品很好{character}" for character in rare] + ["质量不错，推荐购买"] * 50
    tokenizer = student_tokenizer(load_tokenizer(make_checkpoint("bert")), texts, 100)
    assert len(tokenizer) <= 100
    ids = tokenizer("这个商品很好推荐购买")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.unk_token_id in tokenizer(rare[-1])["input_ids"]


def test_chinese_is_cut_into_pieces_of_its_own(make_checkpoint: Callable[[str], Path]) -> None:
    texts = [text for text in CHINESE for _ in range(20)]
    tokenizer = student_tokenizer(load_tokenizer(make_checkpoint("bert")), texts, 300)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("客服态度差，物流也很快")["input_ids"])
    assert "".join(tokens[1:]) == "客服态度差,物流也很快"
    assert any(len(token) > 1 for token in tokens[1:])
    assert max(map(len, tokenizer.get_vocab())) <= len("[CLS]")
    long = tokenizer("质量" * 5000, truncation=True, max_length=64)["input_ids"]
    assert len(long) == 64


def test_a_tokenizer_of_characters_knows_every_character_of_the_corpus() -> None:
    tokenizer = character_tokenizer(["Oat milk", "燕麦奶"], 100)
    assert tokenizer.convert_ids_to_tokens(tokenizer("milk 燕")["input_ids"]) == ["[CLS]", *"milk 燕"]


def test_a_transformer_student_keeps_the_teachers_first_layers(
    make_student: Callable[[str], Path], make_checkpoint: Callable[[str], Path]
) -> None:
    student, teacher = load_model(make_student("transformer")), load_model(make_checkpoint("bert"))
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(student.bert.get_parameter(name), teacher.bert.get_parameter(name))
    assert student.config.num_hidden_layers == 1


def test_a_narrow_transformer_student_answers(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    teacher = find_checkpoint(str(make_checkpoint("bert")))
    build_student(tmp_path / "narrow", StudentSpec("transformer", 16, 150), teacher, list(SENTENCES), LABELS, 3)
    model = load_model(tmp_path / "narrow")
    assert model.config.hidden_size == 16
    assert logits(model, [[2, 5, 9]]).shape == (1, len(LABELS))


def test_principal_components_keep_what_differs() -> None:
    torch.manual_seed(1)
    plane = torch.randn(50, 2) @ torch.randn(2, 6) + 3.0
    kept = principal(plane, 4)
    assert kept.shape == (50, 4)
    assert float(kept[:, 2:].abs().max()) < 1e-3
    assert float(kept.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_rare_tokens_weigh_more() -> None:
    weights = rareness([[0, 1, 1, 1], [1, 2]], 4)
    assert weights[3] == 1.0
    assert weights[1] < weights[0] == weights[2] < weights[3]


def test_relations_of_the_same_attention_are_no_loss() -> None:
    torch.manual_seed(1)
    stacked, mask = torch.randn(2, 5, 3, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert float(relation_loss(stacked, stacked, mask, 2)) == pytest.approx(0.0, abs=1e-6)
    assert float(relation_loss(stacked, torch.randn(2, 5, 3, 4), mask, 2)) > 0.01
    changed = stacked.clone()
    changed[1, 2:] = 9.0
    assert float(relation_loss(stacked, changed, mask, 2)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_trained_for_a_grid_lie_on_it(bits: int) -> None:
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Embedding(20, 6), torch.nn.Linear(6, 5))
    before = model[0].weight.detach().clone()
    start_rounding(model, Bits(tables=bits, dense=bits))
    model(torch.arange(20)).square().sum().backward()
    finish_rounding(model)
    for layer in model:
        weight = layer.weight.detach().numpy()
        steps = weight / (np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1))
        assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert not torch.equal(before, model[0].weight)
    assert type(model[0]) is torch.nn.Embedding


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind != "transformer"])
def test_every_engine_answers_like_the_student(
    kind: str, make_student: Callable[[str], Path], cache: Path, tmp_path: Path
) -> None:
    student = shutil.copytree(make_student(kind), tmp_path / kind)
    config = json.loads((student / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 32  # else the checkpoint reads more of a long probe than the bundle keeps
    (student / "config.json").write_text(json.dumps(config), encoding="utf-8")
    job = Job(str(student), "x86-64", tmp_path, cache=cache, variants=ENGINES, max_length=32, bound=Bound(0.9))
    report = convert(job, Lines())
    assert report.bundle is not None, [candidate.failure for candidate in report.candidates]
    found = {variant.name: variant.measured for variant in Bundle.open(report.bundle).manifest.variants}
    assert tuple(found) == ENGINES, [candidate.failure for candidate in report.candidates]
    exact = found["onnx-fp32"]
    assert exact is not None
    assert exact.agreement == 1.0
    assert exact.max_abs_error is not None and exact.max_abs_error < 1e-4
    assert all(
        figures and figures.max_abs_error is not None and figures.max_abs_error < 0.01 for figures in found.values()
    )
    assert json.loads((report.bundle / "manifest.json").read_text(encoding="utf-8"))["options"]["max_length"] == 32


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("is_chinese", [False, True])
def test_the_same_texts_give_the_same_tokenizer(kind: str, is_chinese: bool, make_tokenizer: Any) -> None:
    thing = ("红色的鞋子", "咖啡杯", "雨伞") if is_chinese else ("red shoes", "a coffee mug", "an umbrella")
    texts = [f"{number} {thing[number % 3]} {chr(97 + number % 26)}{chr(99 + number % 20)}" for number in range(200)]
    teacher = make_tokenizer(kind)
    students = {student_tokenizer(teacher, texts, 120).backend_tokenizer.to_str() for _ in range(4)}
    taggers = {tagger_tokenizer(texts, 120).backend_tokenizer.to_str() for _ in range(4)}
    assert (len(students), len(taggers)) == (1, 1)
