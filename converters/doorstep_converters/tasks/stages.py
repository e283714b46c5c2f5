"""The stages of any task: ask the checkpoint, ask a variant, train."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.golden import flatten
from doorstep.predictor import LoadOptions, Predictor
from doorstep_converters.tasks import find_craft
from doorstep_converters.tasks.craft import is_file_item
from doorstep_converters.worker import Channel


def reference(
    out: Path,
    channel: Channel,
    task: str,
    checkpoint: str,
    items: str,
    corpus: str,
    calibration: str,
    options: dict[str, Any],
    max_length: int,
    is_pickle_allowed: bool = False,
) -> dict[str, Any]:
    """Answer items with the checkpoint; writes `answers.json`, `calibration.npz` and `shared/`."""
    shared = out / "shared"
    shared.mkdir()
    plan = {
        "options": options,
        "calibration": _read(calibration),
        "corpus": json.loads(Path(corpus).read_text(encoding="ascii")),
        "max_length": max_length,
        "progress": channel.progress,
        "is_pickle_allowed": is_pickle_allowed,
    }
    answered = find_craft(task).answer(Path(checkpoint), _read(items), shared, plan)
    write_answers(out, answered.answers)
    arrays = {f"{place}/{name}": array for place, feed in enumerate(answered.feeds) for name, array in feed.items()}
    np.savez(out / "calibration.npz", **arrays)
    return {"options": answered.options, "card": answered.card, "notes": list(answered.notes)}


def parity(out: Path, channel: Channel, bundle: str, variant: str, texts: str) -> dict[str, Any]:
    """Answer items one by one with one variant, as a device would; writes `answers.json`."""
    items = _read(texts)
    answers = []
    with Predictor.load(bundle, variant=variant, strict=True, options=LoadOptions()) as predictor:
        for number, item in enumerate(items):
            answers.append(flatten(predictor.predict(item)))
            channel.progress((number + 1) / len(items))
    write_answers(out, answers)
    return {}


def train(
    out: Path, channel: Channel, task: str, checkpoint: str, data: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Train a checkpoint into `out/checkpoint`."""
    rows = json.loads(Path(data).read_text(encoding="ascii"))
    target = out / "checkpoint"
    target.mkdir()
    found: dict[str, Any] = find_craft(task).train(
        target, channel, Path(checkpoint) if checkpoint else None, rows, options
    )
    return found


def write_answers(out: Path, answers: list[dict[str, float]]) -> None:
    """Keep flat answers, one an item."""
    (out / "answers.json").write_text(json.dumps(answers), encoding="ascii")


class Items(Sequence[Any]):
    """Items; `{"file": path}` becomes the bytes at an absolute path, which are read when they are asked for."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Items(self._items[place])
        item = self._items[place]
        return Path(item["file"]).read_bytes() if is_file_item(item) else item


def _read(path: str) -> Items:
    return Items(json.loads(Path(path).read_text(encoding="ascii")))
