"""The stages of any task: ask the checkpoint, ask a variant, train."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.golden import flatten
from doorstep.predictor import LoadOptions, Predictor
from doorstep_converters.tasks import find_craft
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
        "calibration": json.loads(Path(calibration).read_text(encoding="ascii")),
        "corpus": json.loads(Path(corpus).read_text(encoding="ascii")),
        "max_length": max_length,
        "progress": channel.progress,
        "is_pickle_allowed": is_pickle_allowed,
    }
    answered = find_craft(task).answer(Path(checkpoint), _read(items), shared, plan)
    write_answers(out, answered.answers)
    arrays = {f"{place}/{name}": array for place, feed in enumerate(answered.feeds) for name, array in feed.items()}
    np.savez(out / "calibration.npz", **arrays)
    return {"options": answered.options, "card": answered.card}


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


def _read(path: str) -> list[Any]:
    """Read items; `{"file": path}` becomes the bytes at an absolute path."""
    items: list[Any] = json.loads(Path(path).read_text(encoding="ascii"))
    return [_opened(item) for item in items]


def _opened(item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"file"}:
        return Path(item["file"]).read_bytes()
    return item
