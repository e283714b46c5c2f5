"""Prune attention heads, the least important ones across all layers; each layer keeps at least one."""

from pathlib import Path
from typing import Any

from doorstep_converters.prune.folder import Opened, check_share, parameters
from doorstep_converters.prune.importance import head_importance, keep_largest
from doorstep_converters.prune.layout import find_layout, head_size, layers_of
from doorstep_converters.prune.pruned import as_pruned, keep_columns, keep_rows
from doorstep_converters.worker import Channel


def prune(
    out: Path,
    channel: Channel,
    checkpoint: str,
    data: str,
    keep: float,
    max_length: int = 128,
    importance: str = "gradient",
) -> dict[str, Any]:
    """Keep a share of all heads and write `out/checkpoint`; a job of `stages`.

    Args:
        data: JSON file `{"train": [[text, label]…]}`.
        keep: share of the heads (above 0, at most 1).

    Raises:
        CheckpointError: an architecture whose heads cannot be pruned.
        DataError: no labelled texts.
        UsageError: `keep` is no share, or `importance` is unknown.
    """
    check_share("heads", keep)
    opened = Opened.load(checkpoint)
    layout = find_layout(opened.model.config.model_type)
    before = parameters(opened.model)
    batches = opened.batches(data, max_length)
    opened.model = as_pruned(opened.model)
    scores = head_importance(opened.model, layout, batches, importance)
    channel.progress(0.8)
    kept = keep_largest(scores, round(keep * sum(map(len, scores))), least=1)
    size = head_size(opened.model.config, layout)
    for layer, heads in zip(layers_of(opened.model, layout), kept, strict=True):
        places = [head * size + place for head in heads for place in range(size)]
        for name in (layout.query, layout.key, layout.value):
            keep_rows(layer, name, places)
        keep_columns(layer, layout.attended, places)
    opened.model.config.layer_heads = [len(heads) for heads in kept]
    opened.write(out / "checkpoint")
    return {"kept": kept, "parameters": parameters(opened.model), "parameters_before": before}
