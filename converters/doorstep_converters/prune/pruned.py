"""Architectures whose layers differ in heads and feed-forward width: what stock configurations cannot say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from doorstep_converters.prune.layout import PREFIX, Layout, find_layout, head_size, layers_of


def _pruned(config_class: Any, model_class: Any) -> tuple[Any, Any]:
    """Return a configuration and a model like the given ones, with heads and widths of each layer of their own."""

    class PrunedConfig(config_class):
        model_type = PREFIX + config_class.model_type
        layer_heads: list[int] | None = None
        layer_widths: list[int] | None = None

    class PrunedForSequenceClassification(model_class):
        config_class = PrunedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            shrink(self, find_layout(config.model_type))

    name = model_class.__name__
    PrunedConfig.__name__ = PrunedConfig.__qualname__ = f"Pruned{config_class.__name__}"
    PrunedForSequenceClassification.__name__ = PrunedForSequenceClassification.__qualname__ = f"Pruned{name}"
    return PrunedConfig, PrunedForSequenceClassification


PRUNED: dict[str, tuple[Any, Any]] = {
    config.model_type: _pruned(config, model)
    for config, model in (
        (BertConfig, BertForSequenceClassification),
        (DistilBertConfig, DistilBertForSequenceClassification),
        (RobertaConfig, RobertaForSequenceClassification),
        (XLMRobertaConfig, XLMRobertaForSequenceClassification),
    )
}
"""Model type of the stock architecture to the configuration and the model that may be pruned unevenly."""


def shrink(model: Any, layout: Layout) -> None:
    """Give every layer linear layers of the sizes its configuration says; their weights are to be loaded."""
    config = model.config
    size = head_size(config, layout)
    for place, layer in enumerate(layers_of(model, layout)):
        if config.layer_heads is not None:
            inner = config.layer_heads[place] * size
            for name in (layout.query, layout.key, layout.value):
                _resize(layer, name, rows=inner)
            _resize(layer, layout.attended, columns=inner)
        if config.layer_widths is not None:
            _resize(layer, layout.inner, rows=config.layer_widths[place])
            _resize(layer, layout.outer, columns=config.layer_widths[place])


def as_pruned(model: Any) -> Any:
    """Return a copy of a stock model as the architecture that may be pruned unevenly; a pruned one as it is."""
    if model.config.model_type.startswith(PREFIX):
        return model
    config_class, model_class = PRUNED[model.config.model_type]
    layout = find_layout(model.config.model_type)
    plain = model.config.to_dict()
    plain.pop("model_type")
    config = config_class(**plain)
    count = getattr(config, layout.count)
    config.layer_heads = [getattr(config, layout.heads)] * count
    config.layer_widths = [getattr(config, layout.inner_size)] * count
    copy = model_class(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def keep_rows(layer: nn.Module, name: str, places: Sequence[int]) -> None:
    """Keep some outputs of a linear layer."""
    old = layer.get_submodule(name)
    bias = None if old.bias is None else old.bias[list(places)]
    _put(layer, name, old.weight[list(places)], bias)


def keep_columns(layer: nn.Module, name: str, places: Sequence[int]) -> None:
    """Keep some inputs of a linear layer."""
    old = layer.get_submodule(name)
    _put(layer, name, old.weight[:, list(places)], old.bias)


def _put(layer: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        new.weight.copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
    layer.set_submodule(name, new)


def _resize(layer: nn.Module, name: str, rows: int | None = None, columns: int | None = None) -> None:
    old: Any = layer.get_submodule(name)
    sizes = (columns or old.in_features, rows or old.out_features)
    if sizes != (old.in_features, old.out_features):
        layer.set_submodule(name, nn.Linear(*sizes, bias=old.bias is not None))
