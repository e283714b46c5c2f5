"""From the states of tokens to one vector, as sentence-transformers does it; part of the exported graph."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from doorstep_converters.export.classifier import Classifier

_LOW = -1e4  # instead of -inf, which leaves int8 ranges no room


class Pooled(Classifier):
    """`vectors = model(input_ids, attention_mask)`: pooled, then through linear layers; not yet scaled."""

    def __init__(
        self, model: nn.Module, masked: float | None, pooling: Sequence[str], layers: Sequence[nn.Module]
    ) -> None:
        super().__init__(model, masked)
        self.pooling = tuple(pooling)
        self.layers = nn.Sequential(*layers)

    @classmethod
    def of(cls, pooling: Sequence[str], layers: Sequence[nn.Module]) -> "Callable[[nn.Module, float | None], Pooled]":
        """Return the class with everything but the model filled in."""
        return lambda model, masked: cls(model, masked, pooling, layers)

    def read(self, output: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        states = output.last_hidden_state  # [batch, sequence, dimensions]
        mask = attention_mask[:, :, None].to(states.dtype)  # [batch, sequence, 1]
        parts = [_POOL[name](states, mask) for name in self.pooling]
        vectors: torch.Tensor = self.layers(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        return vectors


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask + (1 - mask) * _LOW).amax(1)


def _cls(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _sqrt(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt()


def _weighted(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.cumsum(torch.ones_like(mask), dim=1) * mask  # [batch, sequence, 1], from 1 on
    return (states * places).sum(1) / places.sum(1).clamp(min=1e-9)


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    after = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return (states * mask * (1 - after)).sum(1)  # the token that is kept and whose follower is not


_POOL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": _mean,
    "max": _max,
    "cls": _cls,
    "mean_sqrt_len": _sqrt,
    "weightedmean": _weighted,
    "lasttoken": _last,
}
