"""Ask a checkpoint what it makes of many texts, in batches, on a GPU where there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.errors import DataError
from doorstep.tensors import Array
from doorstep_converters.memory import Batches, to_log
from doorstep_converters.placement import feeds_device, load_teacher
from doorstep_converters.precision import is_bf16, products
from doorstep_converters.reference import probabilities
from doorstep_converters.tokenizer import load_tokenizer

_BATCH = 64
REMEDY = "shorten the texts or --max-length, or use a machine with more memory or a smaller teacher"


def ask(
    folder: Path,
    texts: Sequence[str],
    limit: int,
    report: Callable[[float], None],
    is_pickle_allowed: bool = False,
    say: Callable[[str], None] = to_log,
    precision: str = "fp32",
) -> Array:
    """Return the checkpoint's probabilities [texts, classes] float32; texts are cut at `limit` tokens.

    Texts go in batches of like length, so that little is spent on padding; a text's answer may differ by rounding
    from what it gets alone.

    Args:
        say: called with what the user should know, such as that memory was short.
        precision: of matrix products, as `precision.is_bf16` reads it.

    Raises:
        ConversionError: one text does not fit into memory.
    """
    has_bf16 = is_bf16(precision, on_gpu=feeds_device().type == "cuda")
    tokenizer = load_tokenizer(folder)
    model = load_teacher(folder, is_pickle_allowed)
    is_multi_label = model.config.problem_type == "multi_label_classification"
    logits = np.zeros((len(texts), model.config.num_labels), np.float32)  # [texts, classes]
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    answers = Batches(_BATCH, "the teacher", REMEDY, say).ask(
        [texts[place] for place in order], lambda part: _logits(model, tokenizer, list(part), limit, has_bf16)
    )
    for done, (place, row) in enumerate(zip(order, answers, strict=True), 1):
        logits[place] = row
        if done % _BATCH == 0 or done == len(order):
            report(done / len(order))
    return probabilities(logits, is_multi_label)


def labels_of(folder: Path, wanted: Sequence[str], subject: str) -> list[int]:
    """Return the places of `wanted` labels in a checkpoint's head.

    Raises:
        DataError: the head lacks some.
    """
    from transformers import AutoConfig

    names = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).id2label
    places = {str(name): int(place) for place, name in names.items()}
    lacking = sorted(set(wanted) - places.keys())
    if lacking:
        raise DataError(
            f"{subject}: the teacher {folder} has {len(places)} labels ({', '.join(list(places)[:5])}, …) and lacks "
            f"{', '.join(lacking[:5])}; correct the labels, or take a teacher that was trained on them"
        )
    return [places[name] for name in wanted]


def _logits(model: Any, tokenizer: Any, texts: list[str], limit: int, has_bf16: bool) -> Array:
    encoded = tokenizer(texts, truncation=True, max_length=limit, padding=True, return_tensors="pt")
    with torch.inference_mode(), products(feeds_device(), has_bf16):
        feeds = {name: encoded[name].to(feeds_device()) for name in ("input_ids", "attention_mask")}
        logits: Array = model(**feeds).logits.float().cpu().numpy()  # [batch, classes]
    return logits
