"""Attention relations: how the tokens of a text relate in query, key and value space.

They are compared head by head, so teacher and student may differ in width and in heads. Source: Wang et al., MiniLMv2:
Multi-Head Self-Attention Relation Distillation, https://arxiv.org/abs/2012.15828.
"""

from typing import Any

import torch
from torch import nn

from doorstep.errors import DataError

_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("query_proj", "key_proj", "value_proj"))


class LastAttention:
    """Listens to the last attention layer of a transformer.

    Raises:
        DataError: the model has no layer with query, key and value projections.
    """

    def __init__(self, model: nn.Module) -> None:
        self._heard: dict[int, torch.Tensor] = {}
        for place, layer in enumerate(_projections(model)):
            layer.register_forward_hook(self._listen(place))
        config: Any = model.config
        self.heads = int(config.num_attention_heads)

    def stacked(self) -> torch.Tensor:
        """Return query, key and value of the last answer [batch, sequence, 3, width]."""
        return torch.stack([self._heard[place] for place in range(3)], dim=2)

    def _listen(self, place: int) -> Any:
        def hear(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._heard[place] = output

        return hear


def relation_loss(teacher: torch.Tensor, student: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the mean KL divergence between relations of teacher and student.

    Args:
        teacher, student: [batch, sequence, 3, width], widths divisible by `heads`.
        mask: [batch, sequence], 1 where there is a token.
    """
    kept = mask[:, None, None, :].to(torch.bool)  # [batch, 1, 1, sequence]
    expected = _relations(teacher, kept, heads).softmax(dim=-1)  # [batch, 3·heads, sequence, sequence]
    found = _relations(student, kept, heads).log_softmax(dim=-1)
    divergence = nn.functional.kl_div(found, expected, reduction="none").sum(dim=-1)  # [batch, 3·heads, sequence]
    weight = mask[:, None, :].to(divergence.dtype)
    return (divergence * weight).sum() / (weight.sum() * divergence.shape[1]).clamp(min=1.0)


def _relations(stacked: torch.Tensor, kept: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, parts, width = stacked.shape
    size = width // heads
    split = stacked.reshape(batch, length, parts * heads, size).transpose(1, 2)  # [batch, 3·heads, sequence, size]
    scores = split @ split.transpose(2, 3) / size**0.5
    return scores.masked_fill(~kept, -40.0)


def _projections(model: nn.Module) -> list[nn.Module]:
    for names in _PROJECTIONS:
        found = [
            [module for path, module in model.named_modules() if path.rpartition(".")[2] == name] for name in names
        ]
        if all(found):
            return [layers[-1] for layers in found]
    raise DataError("relations: the model has no attention with query, key and value layers; leave relations out")
