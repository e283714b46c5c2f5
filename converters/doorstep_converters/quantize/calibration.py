"""Calibration data: feeds for activation ranges, taken from training texts, never from held-out ones."""

import json
from pathlib import Path

import numpy as np

from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Array, TensorSpec


def write_calibration(path: Path, texts: list[str]) -> None:
    """Keep calibration texts for the quantizers' processes."""
    path.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")


def read_feeds(path: Path, tokenizer: Path, max_length: int, dtype: str) -> list[dict[str, Array]]:
    """Return one feed a calibration item; of texts ids and mask [1, sequence] of `dtype`, an `.npz` holds any feeds."""
    if path.suffix == ".npz":
        return _finished_feeds(path, dtype)
    specs = [TensorSpec(name, dtype, ("batch", "sequence")) for name in ("input_ids", "attention_mask")]
    encoder = TextEncoder.from_bytes(tokenizer.read_bytes(), max_length, specs)
    rows = encoder.encode(json.loads(path.read_text(encoding="utf-8")))
    return [dict(encoder.collate([row])) for row in rows]


def _finished_feeds(path: Path, dtype: str) -> list[dict[str, Array]]:
    feeds: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            place, _, name = key.partition("/")
            array = arrays[key]
            feeds.setdefault(int(place), {})[name] = array.astype(dtype) if array.dtype.kind in "iu" else array
    return [feeds[place] for place in sorted(feeds)]


def feed_length(feed: dict[str, Array]) -> int:
    """Return the length of a feed's second axis."""
    return max((array.shape[1] for array in feed.values() if array.ndim > 1), default=1)


def fit_feed(feed: dict[str, Array], length: int) -> dict[str, Array]:
    """Return a feed cut or padded to [1, length]; arrays of one axis are lengths, which are cut too."""
    found = {}
    for name, array in feed.items():
        if array.ndim == 1:
            found[name] = np.minimum(array, length).astype(array.dtype)
        else:
            cut = array[:, :length]
            found[name] = np.pad(cut, ((0, 0), (0, length - cut.shape[1])))
    return found
