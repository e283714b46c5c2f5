"""What the checkpoint itself answers: the side of the scales that parity weighs against."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.errors import CheckpointError
from doorstep.tasks import softmax
from doorstep.tensors import Array
from doorstep_converters.export.classifier import load_model
from doorstep_converters.probes import PROBES
from doorstep_converters.tokenizer import differing_texts, export_tokenizer, load_tokenizer, token_lengths
from doorstep_converters.worker import Channel

_SHORTEST, _COVERED = 32, 99.0


def answer(
    out: Path,
    channel: Channel,
    checkpoint: str,
    texts: str,
    length_texts: str,
    limit: int,
    max_length: int | None,
    is_multi_label: bool,
    is_pickle_allowed: bool = False,
) -> dict[str, Any]:
    """Answer `texts` with the checkpoint in PyTorch at its own full length; a job of `stages`.

    Writes `probabilities.npy` [texts, classes] float32 and `tokenizer.json`; returns the bundle's `max_length`: as
    asked, else the power of two that holds 99 % of `length_texts` (at least 32, at most `limit`).

    Raises:
        CheckpointError: the exported tokenizer gives other tokens than transformers.
    """
    folder = Path(checkpoint)
    tokenizer = load_tokenizer(folder)
    items: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    if max_length is None:
        samples = json.loads(Path(length_texts).read_text(encoding="utf-8"))
        max_length = covering_length(token_lengths(tokenizer, samples), limit) if samples else min(128, limit)
    export_tokenizer(tokenizer, out / "tokenizer.json", max_length)
    if wrong := differing_texts(tokenizer, out / "tokenizer.json", [*PROBES, *items], max_length):
        raise CheckpointError(
            f"{folder}: the exported tokenizer gives other tokens for {len(wrong)} texts: {wrong[0]!r:.80}"
        )
    model = load_model(folder, is_pickle_allowed)
    logits = np.zeros((len(items), model.config.num_labels), np.float32)  # [texts, classes]
    for place, text in enumerate(items):
        encoded = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            logits[place] = (
                model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
                .logits[0]
                .float()
                .numpy()
            )
        channel.progress((place + 1) / len(items))
    np.save(out / "probabilities.npy", probabilities(logits, is_multi_label))
    return {"max_length": max_length, "classes": int(model.config.num_labels)}


def covering_length(lengths: list[int], limit: int) -> int:
    """Return the smallest power of two (32 or more, at most `limit`) that holds 99 % of the lengths."""
    wanted = float(np.percentile(lengths, _COVERED))
    length = _SHORTEST
    while length < wanted and length < limit:
        length *= 2
    return min(length, limit)


def probabilities(logits: Array, is_multi_label: bool) -> Array:
    """Return probabilities [texts, classes] float32."""
    return (1 / (1 + np.exp(-logits)) if is_multi_label else softmax(logits)).astype(np.float32)
