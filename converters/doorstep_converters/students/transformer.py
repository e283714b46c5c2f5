"""Transformer students: the teacher's architecture with fewer layers, narrower layers and fewer tokens."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from doorstep_converters.students.space import principal

_LAYER = re.compile(r"^(.*\.layers?\.)(\d+)(\..*)$")
_HEAD_WIDTH = 32
_WIDER = 4  # a feed-forward layer's width is so many times the model's


def shrink(
    teacher: Any,
    tokens: Sequence[int],
    layers: int,
    width: int,
    labels: Sequence[str] | None,
    auto: Any = None,
) -> Any:
    """Make a smaller model of a teacher's.

    A student of the teacher's width is filled with the teacher's own layers, spread evenly from first to last; a
    narrower one starts with the principal components of the teacher's token vectors and random layers.

    Args:
        tokens: of the teacher's ids that the student keeps, in the student's order.
        width: 0 keeps the teacher's.
        labels: of the head that classifies; None for an encoder without one.
        auto: the transformers class that makes a model with the wanted head; None for one that classifies texts.
    """
    config = copy.deepcopy(teacher.config)
    config.vocab_size, config.pad_token_id = len(tokens), None
    config.num_hidden_layers = layers = min(layers, teacher.config.num_hidden_layers)
    is_narrow = 0 < width < teacher.config.hidden_size
    if is_narrow:
        _narrow(config, width)
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: place for place, label in enumerate(labels)}
    auto = auto or (AutoModel if labels is None else AutoModelForSequenceClassification)
    student = auto.from_config(config)
    table = teacher.get_input_embeddings().weight.detach()[torch.tensor(tokens)]  # [tokens, teacher's width]
    if not is_narrow:
        _copy_layers(teacher, student, layers)
    with torch.no_grad():
        kept = principal(table, width) * table.square().mean().sqrt() if is_narrow else table
        student.get_input_embeddings().weight.copy_(kept)
    return student


def _narrow(config: Any, width: int) -> None:
    config.hidden_size = width
    config.num_attention_heads = max(1, width // _HEAD_WIDTH)
    for name in ("intermediate_size", "hidden_dim"):
        if hasattr(config, name):
            setattr(config, name, _WIDER * width)


def _copy_layers(teacher: Any, student: Any, layers: int) -> None:
    """Copy every weight that has the same shape; layer n of the student is one of the teacher's, evenly spread."""
    last = teacher.config.num_hidden_layers - 1
    spread = [round(place * last / max(1, layers - 1)) if layers > 1 else 0 for place in range(layers)]
    source, target = teacher.state_dict(), student.state_dict()
    for name, weight in target.items():
        found = _LAYER.match(name)
        wanted = f"{found[1]}{spread[int(found[2])]}{found[3]}" if found and int(found[2]) < layers else name
        if wanted in source and source[wanted].shape == weight.shape:
            target[name] = source[wanted].clone()
    student.load_state_dict(target)
