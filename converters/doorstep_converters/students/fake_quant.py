"""Quantization-aware training: weights are rounded in every forward pass, gradients pass as if they were not.

What is trained so loses nothing when it is stored: the weights left behind lie on the grid that quantizers make, one
symmetric scale a row. Source: Jacob et al., Quantization and Training of Neural Networks, https://arxiv.org/abs/1712.05877.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Bits:
    """How many bits weights are trained for; 0 leaves them as they are.

    Attributes:
        tables: of token vectors (8 or 4).
        dense: of dense layers (8 or 4).
    """

    tables: int = 0
    dense: int = 0


class RowRounding(nn.Module):
    """Rounds each row of a weight to `bits` bits and a scale."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rounded weight [rows, …]; its gradient is the weight's."""
        flat = weight.flatten(1)
        scale = flat.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST) / self.top
        rounded = ((flat / scale).round() * scale).reshape(weight.shape)
        return weight + (rounded - weight).detach()


def start_rounding(model: nn.Module, bits: Bits) -> None:
    """Round the weights of tables and dense layers from now on."""
    for module in list(model.modules()):
        wanted = bits.tables if isinstance(module, nn.Embedding) else bits.dense
        if wanted and isinstance(module, (nn.Embedding, nn.Linear)):
            parametrize.register_parametrization(module, "weight", RowRounding(wanted))


def finish_rounding(model: nn.Module) -> None:
    """Leave the rounded weights behind as ordinary ones."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
