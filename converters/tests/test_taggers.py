"""Students that name spans: characters in every engine, whom they believe, and what is refused."""

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForTokenClassification

from doorstep import Predictor
from doorstep.errors import CheckpointError, UsageError
from doorstep.tasks.token_classification import Decoder, TokenOptions
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.students import TAGGERS, register
from doorstep_converters.students.build_tagger import load_tagger, make_tagger, tagger_spec
from doorstep_converters.students.vocabulary import tagger_tokenizer
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.token_classification_labels import bio_labels, marks_of, wanted_of
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

TEXTS = (
    ("我想买红色的手机壳", "手机壳"),
    ("love it 😍👍🏽 from Größe", "😍👍🏽"),
    ("Café crème & ﬁsh", "ﬁsh"),
    ("ＢＵＹ　ＭＩＬＫ　１２ now", "ＭＩＬＫ　１２"),
    ("とても良い商品です", "商品"),
    ("한국어 리뷰 shoes", "리뷰"),
    ("plain words here", "words"),
)
ENGINES = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "tflite-int8", "numpy-fp16")
STUDENTS = ("cnn-2l-32w-48f", "bilstm-32w-32f")


def _row(text: str, piece: str, label: str = "thing") -> dict[str, Any]:
    start = text.index(piece)
    return {"text": text, "spans": [[start, start + len(piece), label]]}


def _folder(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir()
    plain = [
        {"text": row["text"], "spans": [{"start": a, "end": b, "label": name} for a, b, name in row["spans"]]}
        for row in rows
    ]
    for split in ("train", "dev", "test"):
        text = "".join(json.dumps(row) + "\n" for row in plain)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _train(out: Path, student: str, rows: Sequence[dict[str, Any]], **changes: Any) -> Path:
    """Train a student in this process; returns its folder."""
    out.mkdir()
    data = {"train": rows, "dev": changes.pop("dev", rows)}
    options = {"student": student, "seed": 1, "epochs": 40, "learning_rate": None, "max_length": 64, **changes}
    find_craft("token-classification").train(out, Channel(StringIO()), None, data, options)
    return out


def _named(folder: Path, text: str) -> set[tuple[str, str]]:
    """Return label and characters of what a checkpoint finds."""
    tokenizer, model = load_tokenizer(folder), load_tagger(folder)
    encoding = tokenizer([text]).encodings[0]
    ids = torch.tensor([encoding.ids])
    with torch.no_grad():
        chances = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].softmax(-1).numpy()
    labels = tuple(model.config.id2label[place] for place in range(len(model.config.id2label)))
    spans = Decoder(TokenOptions(labels, 64)).spans(text, [encoding], [chances]).spans
    return {(span.label, text[span.start : span.end]) for span in spans}


def _convert(checkpoint: str, out: Path, cache: Path, **changes: Any) -> Report:
    task = changes.pop("task", "token-classification")
    job = Job(checkpoint, "x86-64-vnni", out, task=task, cache=cache, **{"bound": Bound(0.0), **changes})
    return convert(job, Lines())


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_a_students_spans_are_the_very_characters_in_every_engine(student: str, cache: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "spans", [_row(*pair) for pair in TEXTS] * 4)
    training = Training(epochs=60, learning_rate=5e-3)
    report = _convert(f"new:{student}", tmp_path, cache, data=data, training=training, variants=ENGINES, max_length=32)
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(ENGINES, "")
    found = {}
    for engine in ENGINES:
        with Predictor.load(report.bundle or "", variant=engine, strict=True) as predictor:
            answers = [predictor.predict(text).spans for text, _ in TEXTS]
            found[engine] = [
                [text[s.start : s.end] for s in spans] for (text, _), spans in zip(TEXTS, answers, strict=True)
            ]
    assert found == {engine: [[piece] for _, piece in TEXTS] for engine in ENGINES}


@pytest.mark.slow
def test_a_teacher_without_a_head_is_trained_first_and_gives_its_labels(
    encoder_only: Path, cache: Path, tmp_path: Path
) -> None:
    data = _folder(tmp_path / "spans", [_row(*pair) for pair in TEXTS] * 2)
    training = Training(epochs=20, learning_rate=5e-3, teacher=str(encoder_only))
    for student in ("cnn-2l-32w-48f", "transformer-1l"):
        report = _convert(
            f"new:{student}", tmp_path / student, cache, data=data, training=training, variants=("onnx-int8",)
        )
        assert report.bundle is not None
        with Predictor.load(report.bundle) as predictor:
            assert predictor.bundle.manifest.options["labels"] == ["O", "B-thing", "I-thing"]
    heads = [json.loads(path.read_text())["architectures"][0] for path in cache.glob("stages/train-*/*/config.json")]
    assert "BertForTokenClassification" in heads


def test_a_student_believes_its_teacher_more_than_the_labels(tmp_path: Path) -> None:
    """The teacher here knows the opposite of the labels, so that whom the student believes shows."""
    things = ["milk", "tea", "手机壳", "😍"]
    rows = [
        _row(f"{verb} {thing} now", thing, name) for thing in things for verb, name in (("buy", "a"), ("sell", "b"))
    ]
    turned = [
        {**row, "spans": [[start, end, {"a": "b", "b": "a"}[name]] for start, end, name in row["spans"]]}
        for row in rows
    ]
    teacher = _train(tmp_path / "teacher", "bilstm-32w-32f", turned * 4)
    labels = bio_labels(rows)
    lesson = {"teacher": str(teacher), "labels": labels, "dev": turned}  # or the epoch that believed it least is kept
    taught = _train(tmp_path / "taught", "cnn-2l-32w-48f", rows * 4, **lesson)
    alone = _train(tmp_path / "alone", "cnn-2l-32w-48f", rows * 4)
    asked = "buy 手机壳 now"
    found = [_named(folder, asked) for folder in (teacher, taught, alone)]
    assert found == [{("b", "手机壳")}, {("b", "手机壳")}, {("a", "手机壳")}]


def test_the_same_seed_trains_the_same_tagger(tmp_path: Path) -> None:
    rows = [_row(*pair) for pair in TEXTS]
    teacher = _train(tmp_path / "teacher", "cnn-16w-16f", rows, epochs=2)
    weights = [
        _train(tmp_path / f"{number}", "bilstm-16w-16f", rows, epochs=2, seed=seed, teacher=str(teacher))
        / "model.safetensors"
        for number, seed in enumerate((3, 3, 4))
    ]
    first, second, other = (path.read_bytes() for path in weights)
    assert first == second != other


def _bytes() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(["a"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return made


def _said(text: str, encoding: Encoding, row: dict[str, Any], labels: Sequence[str]) -> Any:
    """Return the words of a teacher that is sure of the row's spans."""
    marks = np.array(marks_of(encoding, row, labels))
    chances = np.eye(len(labels), dtype=np.float32)[np.maximum(marks, 0)]  # [tokens, labels]
    return Decoder(TokenOptions(tuple(labels), 64)).words(text, [encoding], [chances])


@pytest.mark.parametrize(("text", "piece"), TEXTS)
@pytest.mark.parametrize("labels", [["O", "B-thing", "I-thing"], ["thing", "O"], ["I-thing", "O"]])
def test_what_a_teacher_says_of_characters_reaches_other_tokens(text: str, piece: str, labels: list[str]) -> None:
    row = _row(text, piece)
    words = _said(text, _bytes().encode(text), row, labels)
    tokenizer = tagger_tokenizer([text for text, _ in TEXTS], 300)
    encoding = tokenizer([text]).encodings[0]
    marks, wanted = marks_of(encoding, row, labels), wanted_of(text, encoding, words, labels)
    assert [mark for mark in marks if mark >= 0] == [int(row.argmax()) for row in wanted if row.any()]
    assert [mark >= 0 for mark in marks] == [bool(row.any()) for row in wanted]


def test_a_word_that_begins_inside_of_a_teachers_goes_on_with_its_span() -> None:
    text, labels = "buy b2b-milk", ["O", "B-thing", "I-thing"]
    spaced = Tokenizer(models.WordLevel({"buy": 0, "?": 1}, unk_token="?"))
    spaced.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = _said(text, spaced.encode(text), _row(text, "b2b-milk"), labels)
    encoding = tagger_tokenizer([text], 300)([text]).encodings[0]
    wanted = wanted_of(text, encoding, words, labels)
    said = [labels[int(row.argmax())] for row in wanted if row.any()]
    assert said[0] == "O"
    assert said[-1] == "I-thing"
    assert sum(name == "B-thing" for name in said) >= 1


@pytest.mark.parametrize("model_type", TAGGERS)
def test_padding_changes_no_tokens_answer(model_type: str) -> None:
    register()
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, vocab_size=50, hidden_size=8, num_labels=3, filters=8)
    model = AutoModelForTokenClassification.from_config(config).eval()
    rows = [[2, 9, 17], [2], [2, 40, 41, 42, 43, 44, 45, 46]]
    ids = torch.tensor([row + [1] * (8 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (8 - len(row)) for row in rows])
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask).logits
        for place, row in enumerate(rows):
            alone = model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row))).logits[0]
            assert float((together[place, : len(row)] - alone).abs().max()) < 1e-5


@pytest.mark.parametrize("model_type", TAGGERS)
def test_a_tokens_answer_depends_on_its_neighbours(model_type: str) -> None:
    register()
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, vocab_size=50, hidden_size=8, num_labels=3)
    model = AutoModelForTokenClassification.from_config(config).eval()
    ids = torch.tensor([[2, 9, 17, 30], [2, 30, 17, 9]])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 2]
    assert float((found[0] - found[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("text", ["我想买手机壳", "とても良い", "ok😍👍🏽!", "ราคาถูก"])
def test_a_taggers_tokens_never_join_what_stands_without_spaces(text: str) -> None:
    tokenizer = tagger_tokenizer([text] * 50, 300)
    offsets = tokenizer([text]).encodings[0].offsets
    spans = [text[start:end] for start, end in offsets if end > start]
    assert [piece for piece in spans if not piece.isascii()] == [c for c in text if not c.isascii()]


def test_a_tagger_tells_names_by_their_capitals() -> None:
    tokenizer = tagger_tokenizer(["may May rosé Rose"] * 50, 300)
    may, name, wine, rose = tokenizer("may May rosé Rose", add_special_tokens=False)["input_ids"]
    assert len({may, name, wine, rose}) == 4


@pytest.mark.parametrize("name", ["hashed-8w-8f-99v", "static-8w-99v", "cnn-8w", "bilstm-3l-8w-8f"])
def test_a_student_that_cannot_name_spans_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"student {name}: "):
        _convert(f"new:{name}", tmp_path, tmp_path / "cache")


def test_a_transformer_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name one with --teacher"):
        _convert("new:transformer-2l", tmp_path, tmp_path / "cache")


def test_a_small_student_has_no_layers_for_a_transformer(tmp_path: Path) -> None:
    rows = [_row(*pair) for pair in TEXTS]
    teacher = _train(tmp_path / "teacher", "cnn-16w-16f", rows, epochs=1)
    data = _folder(tmp_path / "spans", rows)
    with pytest.raises(UsageError, match="encoder's layers"):
        _convert(
            "new:transformer-2l",
            tmp_path / "out",
            tmp_path / "cache",
            data=data,
            training=Training(teacher=str(teacher)),
        )


def test_a_teacher_that_lacks_a_label_is_refused(tmp_path: Path) -> None:
    teacher = _train(tmp_path / "teacher", "cnn-16w-16f", [_row(*pair) for pair in TEXTS], epochs=1)
    data = _folder(tmp_path / "spans", [_row(*pair, label="brand") for pair in TEXTS])
    with pytest.raises(CheckpointError, match="knows no label 'brand'"):
        _convert(
            "new:cnn-16w-16f", tmp_path / "out", tmp_path / "cache", data=data, training=Training(teacher=str(teacher))
        )


def test_a_teacher_whose_every_word_is_something_is_refused(encoder_only: Path, tmp_path: Path) -> None:
    rows = [_row(*pair) for pair in TEXTS]
    AutoModelForTokenClassification.from_pretrained(
        encoder_only, id2label={0: "thing", 1: "verb"}, label2id={"thing": 0, "verb": 1}
    ).save_pretrained(tmp_path / "teacher")
    load_tokenizer(encoder_only).save_pretrained(tmp_path / "teacher")
    data, training = _folder(tmp_path / "spans", rows), Training(teacher=str(tmp_path / "teacher"))
    with pytest.raises(CheckpointError, match="a label O"):
        _convert("new:cnn-16w-16f", tmp_path / "out", tmp_path / "cache", data=data, training=training)


def test_a_head_learnt_again_is_a_new_one(encoder_only: Path, tmp_path: Path) -> None:
    rows = [_row(*pair) for pair in TEXTS]
    options = {"seed": 1, "epochs": 1, "learning_rate": 1e-12, "max_length": 64}
    small = _train(tmp_path / "small", "cnn-16w-16f", rows, epochs=1)
    found, data = [encoder_only], {"train": rows, "dev": rows}
    other = [_row(*pair, label="brand") for pair in TEXTS]
    for name, source, lessons in (("first", encoder_only, data), ("again", None, {"train": other, "dev": other})):
        (tmp_path / name).mkdir()
        options["seed"] += 1
        craft = find_craft("token-classification")
        craft.train(tmp_path / name, Channel(StringIO()), source or found[-1], lessons, options)
        found.append(tmp_path / name)
    first, again = (load_tagger(folder) for folder in found[1:])
    assert "B-brand" in again.config.label2id
    assert (first.classifier.weight - again.classifier.weight).abs().max() > 1e-3
    layer = "bert.encoder.layer.0.output.dense.weight"
    assert torch.allclose(first.get_parameter(layer), again.get_parameter(layer), atol=1e-6)
    wider = [_row(*pair, label=name) for pair, name in zip(TEXTS, "abcdefg", strict=True)]
    (tmp_path / "wider").mkdir()
    craft.train(tmp_path / "wider", Channel(StringIO()), small, {"train": wider, "dev": wider}, options)
    assert load_tagger(tmp_path / "wider").config.num_labels == 15


def test_a_transformer_student_begins_with_its_teachers_layers_and_head(encoder_only: Path, tmp_path: Path) -> None:
    rows = [_row(*pair) for pair in TEXTS]
    options = {"seed": 1, "epochs": 1, "learning_rate": None, "max_length": 64}
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    craft = find_craft("token-classification")
    craft.train(teacher, Channel(StringIO()), encoder_only, {"train": rows, "dev": rows}, options)
    made = make_tagger(tagger_spec("transformer-1l"), teacher, [text for text, _ in TEXTS], bio_labels(rows), 1)
    known = load_tagger(teacher)
    assert torch.equal(made.model.classifier.weight, known.classifier.weight)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(made.model.get_parameter(name), known.get_parameter(name))
