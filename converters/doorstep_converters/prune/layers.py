"""Prune whole layers: those go that change their input least."""

from pathlib import Path
from typing import Any

from torch import nn

from doorstep.errors import UsageError
from doorstep_converters.prune.folder import Opened, parameters
from doorstep_converters.prune.importance import layer_importance
from doorstep_converters.prune.layout import Layout, find_layout, layers_of
from doorstep_converters.worker import Channel


def prune(out: Path, channel: Channel, checkpoint: str, data: str, keep: int, max_length: int = 128) -> dict[str, Any]:
    """Keep `keep` layers and write `out/checkpoint`; a job of `stages`.

    Args:
        data: JSON file `{"train": [[text, label]…]}`.

    Raises:
        CheckpointError: an architecture whose layers cannot be pruned.
        DataError: no labelled texts.
        UsageError: there are not so many layers.
    """
    opened = Opened.load(checkpoint)
    layout = find_layout(opened.model.config.model_type)
    count = len(layers_of(opened.model, layout))
    if not 1 <= keep <= count:
        raise UsageError(f"layers: expected 1 to {count}, got {keep}")
    before = parameters(opened.model)
    scores = layer_importance(opened.model, opened.batches(data, max_length))
    channel.progress(0.8)
    kept = sorted(sorted(range(count), key=lambda place: -scores[place])[:keep])
    keep_layers(opened.model, layout, kept)
    opened.write(out / "checkpoint")
    return {"kept": kept, "parameters": parameters(opened.model), "parameters_before": before}


def keep_layers(model: Any, layout: Layout, kept: list[int]) -> None:
    """Keep some layers, in their order, and what the configuration says of each."""
    layers = layers_of(model, layout)
    model.base_model.set_submodule(layout.layers, nn.ModuleList(layers[place] for place in kept))
    setattr(model.config, layout.count, len(kept))
    for name in ("layer_heads", "layer_widths"):
        if sizes := getattr(model.config, name, None):
            setattr(model.config, name, [sizes[place] for place in kept])
