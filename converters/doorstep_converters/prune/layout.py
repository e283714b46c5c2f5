"""Where each architecture keeps what can be pruned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from doorstep.errors import CheckpointError

PREFIX = "doorstep-pruned-"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside a sequence-classification model, and names in its configuration.

    Attributes:
        layers: the list of layers, from the encoder.
        query, key, value, attended: linear layers of the attention, from one layer; `attended` joins the heads.
        inner, outer: linear layers of the feed-forward part, from one layer.
        count, heads, hidden, inner_size: the configuration's names for the sizes.
    """

    layers: str
    query: str
    key: str
    value: str
    attended: str
    inner: str
    outer: str
    count: str
    heads: str
    hidden: str
    inner_size: str


_BERT = Layout(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attended="attention.output.dense",
    inner="intermediate.dense",
    outer="output.dense",
    count="num_hidden_layers",
    heads="num_attention_heads",
    hidden="hidden_size",
    inner_size="intermediate_size",
)
_DISTILBERT = Layout(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attended="attention.out_lin",
    inner="ffn.lin1",
    outer="ffn.lin2",
    count="n_layers",
    heads="n_heads",
    hidden="dim",
    inner_size="hidden_dim",
)
LAYOUTS = {"bert": _BERT, "distilbert": _DISTILBERT, "roberta": _BERT, "xlm-roberta": _BERT}


def find_layout(model_type: str) -> Layout:
    """Return the layout of an architecture, pruned before or not.

    Raises:
        CheckpointError: its layers cannot be pruned.
    """
    layout = LAYOUTS.get(model_type.removeprefix(PREFIX))
    if layout is None:
        raise CheckpointError(
            f"prune: expected one of the architectures {', '.join(LAYOUTS)}, got {model_type!r}; "
            "its vocabulary alone can be pruned, or distil it into a student"
        )
    return layout


def layers_of(model: Any, layout: Layout) -> Sequence[nn.Module]:
    """Return the layers of a sequence-classification model."""
    found: Sequence[nn.Module] = model.base_model.get_submodule(layout.layers)
    return found


def head_size(config: Any, layout: Layout) -> int:
    """Return the numbers of one attention head."""
    return int(getattr(config, layout.hidden)) // int(getattr(config, layout.heads))
