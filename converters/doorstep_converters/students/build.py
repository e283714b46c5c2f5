"""A student as a checkpoint folder: configuration, first weights, tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

from doorstep.errors import DataError
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint
from doorstep_converters.export.classifier import load_model
from doorstep_converters.students import register
from doorstep_converters.students.keep import keep_student
from doorstep_converters.students.space import rareness, token_space
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.students.transformer import shrink
from doorstep_converters.students.vocabulary import character_tokenizer, cut_tokenizer, student_tokenizer
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_CHARACTERS = 4096  # most that a tokenizer of single characters holds


def make(
    out: Path, channel: Channel, checkpoint: str, spec: dict[str, Any], texts: str, labels: list[str], seed: int
) -> dict[str, Any]:
    """Write a student of a teacher to `out/checkpoint`; a job of `stages`.

    Args:
        texts: a JSON list of texts that the student's tokenizer is made for.
        labels: classes of the student's head, in the teacher's order.
    """
    student = StudentSpec(**spec)
    corpus = json.loads(Path(texts).read_text(encoding="utf-8"))
    build_student(out / "checkpoint", student, find_checkpoint(checkpoint), corpus, labels, seed)
    return {"name": student.name, **asdict(student)}


def build_student(
    out: Path, spec: StudentSpec, teacher: Checkpoint, texts: Sequence[str], labels: Sequence[str], seed: int
) -> None:
    """Write an untrained student: weights from the teacher where they fit, random ones of `seed` elsewhere.

    Raises:
        DataError: no texts to make a tokenizer for.
    """
    if not texts:
        raise DataError("student: expected texts to make its tokenizer for, got none")
    register()
    set_seed(seed)
    made = (
        _transformer(spec, teacher, texts, labels)
        if spec.kind == "transformer"
        else _small(spec, teacher, texts, labels)
    )
    keep_student(made.model, made.tokenizer, teacher.licence, out)


@dataclass(frozen=True, slots=True)
class _Made:
    """A student before it is written."""

    model: Any
    tokenizer: Any


def _transformer(spec: StudentSpec, teacher: Checkpoint, texts: Sequence[str], labels: Sequence[str]) -> _Made:
    tokenizer, tokens = cut_tokenizer(load_tokenizer(teacher.folder), texts, spec.vocabulary)
    model = shrink(load_model(teacher.folder), tokens, spec.layers, spec.width, labels)
    model.config.pad_token_id = tokenizer.pad_token_id
    return _Made(model, tokenizer)


def _small(spec: StudentSpec, teacher: Checkpoint, texts: Sequence[str], labels: Sequence[str]) -> _Made:
    if spec.kind == "hashed":
        tokenizer = character_tokenizer(texts, _CHARACTERS)
    else:
        tokenizer = student_tokenizer(load_tokenizer(teacher.folder), texts, spec.vocabulary)
    config = AutoConfig.for_model(f"doorstep-{spec.kind}", vocab_size=len(tokenizer), **_sizes(spec))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}
    model = AutoModelForSequenceClassification.from_config(config)
    if spec.kind != "hashed":
        with torch.no_grad():
            model.table.weight.copy_(_table(spec, teacher, tokenizer, texts))
    return _Made(model, tokenizer)


def _table(spec: StudentSpec, teacher: Checkpoint, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return the teacher's token space [tokens, width]; rare tokens longer where nothing but an average follows."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    table = token_space(teacher.folder, tokens, spec.width)
    if spec.kind == "static":
        rows = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        table = table * rareness(rows, len(tokens))[:, None]
    return table


def _sizes(spec: StudentSpec) -> dict[str, int]:
    sizes = {"hidden_size": spec.width, "head_width": spec.head}
    if spec.kind != "static":
        sizes["filters"] = spec.filters
    if spec.kind == "cnn":
        sizes["layers"] = spec.layers
    if spec.kind == "hashed":
        sizes["rows"] = spec.vocabulary
    return sizes
