"""`doorstep-next-item`: a history of item vectors, newest first, to the vector of what comes next.

`attention` and `small` read it with causal self-attention in the manner of SASRec (Kang & McAuley 2018), with a learnt
bias for each distance instead of positions, so that a history may begin anywhere; `static` knows the newest item and a
weighted mean of all, no more. Items and interest are compared by their cosine.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

_HIDDEN = -40.0  # added to the scores of what must not be seen; exp(-40) is nothing, and leaves int8 ranges usable
SHAPES: dict[str, dict[str, int]] = {
    "attention": {"dimensions": 64, "layers": 2, "heads": 2},
    "small": {"dimensions": 32, "layers": 1, "heads": 2},
    "static": {"dimensions": 64, "layers": 0, "heads": 1},
}


class NextItemConfig(PreTrainedConfig):
    """Configuration of `doorstep-next-item`.

    Attributes:
        kind: a key of `SHAPES`.
        items: how many there are.
        dimensions: numbers of an item's vector.
        max_length: items read of a history.
        dropout, item_dropout: shares of values dropped in training, inside the layers and of the items' vectors.
        blend: how counts join the cosine, as in `doorstep.recommend.items.Blend`.
        content_fields: fields that new items get a vector by.
    """

    model_type = "doorstep-next-item"
    doorstep_task: str = "next-item"
    kind: str = "attention"
    items: int = 2
    dimensions: int = 64
    layers: int = 2
    heads: int = 2
    max_length: int = 50
    dropout: float = 0.4
    item_dropout: float = 0.3
    blend: Any = None
    content_fields: Any = None


class NextItemModel(PreTrainedModel):
    """Item vectors and a reader of histories."""

    config_class = NextItemConfig
    base_model_prefix = ""
    main_input_name = "vectors"

    def __init__(self, config: NextItemConfig) -> None:
        super().__init__(config)
        self.items = nn.Embedding(config.items, config.dimensions)
        self.drop = nn.Dropout(config.item_dropout)
        if config.layers:
            self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        else:
            self.mean = _Mean(config)
        self.norm = nn.LayerNorm(config.dimensions)
        self.scale = config.dimensions**0.5
        self.post_init()

    def table(self) -> torch.Tensor:
        """Return the items' unit vectors [items, dimensions]."""
        return nn.functional.normalize(self.items.weight, dim=1)

    def encode(self, vectors: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what comes after each item of histories [batch, sequence, dimensions], newest first: the same shape.

        `attention_mask` [batch, sequence] is 0 at padding, which stands behind the oldest item.
        """
        x = self.drop(vectors * self.scale)
        mask = attention_mask.to(torch.float32)
        if self.config.layers:
            for block in self.blocks:
                x = block(x, mask)
        else:
            x = self.mean(x, mask)
        found: torch.Tensor = self.norm(x)
        return found

    def forward(self, vectors: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the vector of what comes next, [batch, dimensions]."""
        return self.encode(vectors, attention_mask)[:, 0]

    def get_input_embeddings(self) -> nn.Module:
        return self.items

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, norms first; an item sees itself and older ones."""

    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        width = config.dimensions
        self.heads = config.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.distance = nn.Parameter(torch.zeros(config.heads, config.max_length))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(config.dropout)
        self.length = config.max_length

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        length, width = x.shape[1], x.shape[2]
        inside = self.before(x)
        query, key, value = (
            layer(inside).reshape(-1, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [batch, heads, sequence, width / heads]
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        scores = scores + _by_distance(self.distance, _HIDDEN)[:, :length, :length]
        scores = scores + (1.0 - mask[:, None, None, :]) * _HIDDEN  # [batch, heads, sequence, sequence]
        mixed = (self.drop(scores.softmax(-1)) @ value).transpose(1, 2).reshape(-1, length, width)
        x = x + self.drop(self.out(mixed))
        inner = self.drop(nn.functional.gelu(self.wide(self.between(x))))
        return x + self.drop(self.narrow(inner))


class _Mean(nn.Module):
    """The item, and the weighted mean of it and all older ones, through a small network."""

    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        width = config.dimensions
        ages = torch.arange(config.max_length, dtype=torch.float32)
        self.distance = nn.Parameter(-0.7 * ages[None])  # as logarithms: half as much an item further back
        self.wide, self.narrow = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        weights = _by_distance(self.distance, _HIDDEN)[0, :length, :length].exp()  # [sequence, sequence]
        total = mask @ weights.transpose(0, 1)  # [batch, sequence]
        mean = (weights @ (x * mask[:, :, None])) / (total[:, :, None] + 1e-6)
        inner = self.drop(nn.functional.gelu(self.wide(torch.cat([x, mean], dim=2))))
        return x + mean + self.narrow(inner)


def _by_distance(values: torch.Tensor, hidden: float) -> torch.Tensor:
    """Return [heads, length, length]: for each item the value of the distance to each older one, `hidden` for newer."""
    places = torch.arange(values.shape[1], device=values.device)
    distance = places[None, :] - places[:, None]  # older items stand behind
    return torch.where(distance < 0, hidden, values[:, distance.clamp(min=0)])


def register() -> None:
    """Tell transformers' Auto classes about the model; more than once does no harm."""
    AutoConfig.register(NextItemConfig.model_type, NextItemConfig, exist_ok=True)
    AutoModel.register(NextItemConfig, NextItemModel, exist_ok=True)
