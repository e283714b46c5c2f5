"""Prune the feed-forward parts' neurons, the least important ones across all layers."""

from pathlib import Path
from typing import Any

from doorstep_converters.prune.folder import Opened, check_share, parameters
from doorstep_converters.prune.importance import input_importance, keep_largest
from doorstep_converters.prune.layout import find_layout, layers_of
from doorstep_converters.prune.pruned import as_pruned, keep_columns, keep_rows
from doorstep_converters.worker import Channel

_STEP = 16  # a layer's neurons come in such numbers: engines compute that many at once
_LEAST = 16


def prune(
    out: Path,
    channel: Channel,
    checkpoint: str,
    data: str,
    keep: float,
    max_length: int = 128,
    importance: str = "gradient",
) -> dict[str, Any]:
    """Keep a share of all feed-forward neurons and write `out/checkpoint`; a job of `stages`.

    Args:
        data: JSON file `{"train": [[text, label]…]}`.
        keep: share of the neurons (above 0, at most 1); each layer's number is rounded up to a multiple of 16.

    Raises:
        CheckpointError: an architecture whose width cannot be pruned.
        DataError: no labelled texts.
        UsageError: `keep` is no share, or `importance` is unknown.
    """
    check_share("width", keep)
    opened = Opened.load(checkpoint)
    layout = find_layout(opened.model.config.model_type)
    before = parameters(opened.model)
    batches = opened.batches(data, max_length)
    opened.model = as_pruned(opened.model)
    scores = input_importance(opened.model, layout, layout.outer, batches, importance)
    channel.progress(0.8)
    count = round(keep * sum(map(len, scores)))
    kept = keep_largest(scores, count, min(_LEAST, *map(len, scores)), _STEP)
    for layer, places in zip(layers_of(opened.model, layout), kept, strict=True):
        keep_rows(layer, layout.inner, places)
        keep_columns(layer, layout.outer, places)
    opened.model.config.layer_widths = [len(places) for places in kept]
    opened.write(out / "checkpoint")
    return {"kept": [len(k) for k in kept], "parameters": parameters(opened.model), "parameters_before": before}
