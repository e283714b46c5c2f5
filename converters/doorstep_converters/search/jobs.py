"""Jobs of a search that belong to no other room."""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.tensors import Array
from doorstep_converters.ask import REMEDY
from doorstep_converters.export.classifier import load_model
from doorstep_converters.memory import Batches
from doorstep_converters.reference import probabilities
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_BATCH = 32
_TIMED, _WARM = 30, 5


def answer(out: Path, channel: Channel, checkpoint: str, texts: str, max_length: int, timed: int) -> dict[str, Any]:
    """Ask a checkpoint in PyTorch, and time it on one text of `timed` tokens and one thread; a job of `stages`.

    Writes `probabilities.npy` [texts, classes] float32.
    """
    model, tokenizer = load_model(Path(checkpoint)), load_tokenizer(Path(checkpoint))
    items: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    is_multi_label = model.config.problem_type == "multi_label_classification"
    logits = np.zeros((len(items), model.config.num_labels), np.float32)  # [texts, classes]
    order = sorted(range(len(items)), key=lambda place: len(items[place]))

    def batch(texts: Sequence[str]) -> Array:
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        with torch.inference_mode():
            got = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        found: Array = got.float().numpy()  # [batch, classes]
        return found

    answers = Batches(_BATCH, "the teacher", REMEDY, channel.note).ask([items[place] for place in order], batch)
    for done, (place, row) in enumerate(zip(order, answers, strict=True), 1):
        logits[place] = row
        if done % _BATCH == 0 or done == len(order):
            channel.progress(done / len(order))
    np.save(out / "probabilities.npy", probabilities(logits, is_multi_label))
    size = sum(path.stat().st_size for path in Path(checkpoint).glob("*.safetensors"))
    return {"bytes": size, **_times(model, tokenizer, items, min(timed, max_length))}


def _times(model: Any, tokenizer: Any, items: list[str], length: int) -> dict[str, float]:
    torch.set_num_threads(1)
    text = " ".join(items)[: 40 * length]
    encoded = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
    times = []
    for _ in range(_WARM + _TIMED):
        start = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
        times.append(1000 * (time.perf_counter() - start))
    kept = sorted(times[_WARM:])
    return {"p50_ms": round(statistics.median(kept), 3), "p95_ms": round(kept[int(0.95 * len(kept))], 3)}
