"""Jobs of a search that belong to no other room."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep_converters.ask import ask
from doorstep_converters.export.classifier import load_model
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_TIMED, _WARM = 30, 5


def answer(out: Path, channel: Channel, checkpoint: str, texts: str, max_length: int, timed: int) -> dict[str, Any]:
    """Ask a checkpoint in PyTorch, and time it on one text of `timed` tokens and one thread; a job of `stages`.

    Writes `probabilities.npy` [texts, classes] float32.
    """
    items: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    answers = ask(Path(checkpoint), items, max_length, channel.progress, say=channel.note)
    np.save(out / "probabilities.npy", answers)
    size = sum(path.stat().st_size for path in Path(checkpoint).glob("*.safetensors"))
    return {"bytes": size, **_times(Path(checkpoint), items, min(timed, max_length))}


def _times(checkpoint: Path, items: list[str], length: int) -> dict[str, float]:
    torch.set_num_threads(1)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
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
