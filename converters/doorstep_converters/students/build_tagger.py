"""A student that names spans: first weights and tokenizer, from a teacher with a token head or from nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, set_seed

from doorstep.errors import UsageError
from doorstep_converters.architectures import register_architectures
from doorstep_converters.checkpoint import read_json
from doorstep_converters.students import is_small
from doorstep_converters.students.space import token_space
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.students.transformer import shrink
from doorstep_converters.students.vocabulary import cut_tokenizer, tagger_tokenizer
from doorstep_converters.tokenizer import load_tokenizer

KINDS = ("transformer", "bilstm", "cnn")
_VOCABULARY = 8192


class MadeTagger(NamedTuple):
    """An untrained student in fp32 and its tokenizer."""

    model: Any
    tokenizer: Any


def tagger_spec(name: str) -> StudentSpec:
    """Read the name of a student that can name spans; one that says no size of its vocabulary gets 8192 tokens.

    Raises:
        UsageError: no student, or of a kind that sees no order of tokens.
    """
    spec = StudentSpec.from_name(name)
    if spec.kind not in KINDS:
        raise UsageError(f"student {name}: spans are named by a {', '.join(KINDS)}; expected one of them")
    if spec.kind != "transformer" and not spec.filters:
        raise UsageError(f"student {name}: expected filters, as in {spec.kind}-64w-96f")
    if spec.kind == "bilstm" and spec.layers > 1:
        raise UsageError(f"student {name}: a bilstm has one layer; leave {spec.layers}l out")
    if spec.kind == "transformer" and (spec.filters or spec.head):
        raise UsageError(f"student {name}: a transformer has neither filters nor a hidden layer in its head")
    return spec if spec.vocabulary else replace(spec, vocabulary=_VOCABULARY)


def make_tagger(
    spec: StudentSpec, teacher: Path | None, texts: Sequence[str], labels: Sequence[str], seed: int
) -> MadeTagger:
    """Make an untrained student: weights from the teacher where they fit, random ones of `seed` elsewhere.

    Args:
        teacher: a checkpoint with a token head, in whose token space the student begins, unless it is a small student
            itself; None for none.
        labels: of the student's head; a transformer's head begins as the teacher's, so they have its order.
    """
    register_architectures()
    set_seed(seed)
    if spec.kind == "transformer":
        assert teacher is not None  # noqa: S101 -- the craft asks for one
        tokenizer, tokens = cut_tokenizer(load_tokenizer(teacher), texts, spec.vocabulary)
        auto = AutoModelForTokenClassification
        model = shrink(load_tagger(teacher), tokens, spec.layers, spec.width, labels, auto)
        model.config.pad_token_id = tokenizer.pad_token_id
        return MadeTagger(model, tokenizer)
    if teacher is not None and is_small(str(read_json(teacher / "config.json").get("model_type"))):
        teacher = None
    tokenizer = tagger_tokenizer(texts, spec.vocabulary)
    sizes = {"hidden_size": spec.width, "head_width": spec.head, "filters": spec.filters}
    if spec.kind == "cnn":
        sizes["layers"] = spec.layers
    config = AutoConfig.for_model(f"doorstep-{spec.kind}", vocab_size=len(tokenizer), **sizes)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}
    model = AutoModelForTokenClassification.from_config(config)
    if teacher is not None:
        with torch.no_grad():
            names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            model.table.weight.copy_(token_space(teacher, names, spec.width))
    return MadeTagger(model, tokenizer)


def load_tagger(folder: Path) -> Any:
    """Load a checkpoint with a token head in fp32, in eval mode."""
    register_architectures()
    model = AutoModelForTokenClassification.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    return model.eval()
