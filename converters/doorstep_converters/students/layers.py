"""What the small students are built of; every operation has a counterpart in every engine and quantizes well.

Padding never reaches an answer: a padded place is set to zero before its neighbours see it, and pooling leaves it out.
"""

import torch
from torch import nn

_LEFT_OUT = -40.0  # exp(-40) is below the resolution of a sum of fp32 probabilities


def windows(x: torch.Tensor, reach: int, step: int = 1) -> torch.Tensor:
    """Lay each place's neighbours beside it: [batch, sequence, width] → [batch, sequence, (2·reach + 1)·width].

    Neighbours lie `step` places apart (dilated convolutions, https://arxiv.org/abs/1511.07122). A dense layer
    behind it is a convolution; as a matrix product it is quantized by every engine, a convolution is not.
    """
    length = x.shape[1]
    most = reach * step
    wide = nn.functional.pad(x, (0, 0, most, most))  # [batch, sequence + 2·most, width]
    return torch.cat([wide[:, start : start + length] for start in range(0, 2 * most + 1, step)], dim=2)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average [batch, sequence, width] over the places whose mask [batch, sequence, 1] is 1 → [batch, width]."""
    return (x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


class NGrams(nn.Module):
    """Filters over windows of 2·reach + 1 tokens that lie `step` apart."""

    def __init__(self, inputs: int, width: int, reach: int, step: int = 1) -> None:
        super().__init__()
        self.reach, self.step = reach, step
        self.filters = nn.Linear((2 * reach + 1) * inputs, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return how strongly each filter fires at each place [batch, sequence, width], 0 or more, 0 at padding."""
        return torch.relu(self.filters(windows(x, self.reach, self.step))) * mask


class AttentionPooling(nn.Module):
    """A softmax over the sequence for each head, and the strongest place of each filter.

    Expects values of 0 or more, 0 at padding.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scores = nn.Linear(width, heads)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool [batch, sequence, width] to [batch, 2·width]."""
        batch, length, width = x.shape
        scores = self.scores(x) + (1.0 - mask) * _LEFT_OUT  # [batch, sequence, heads]
        shares = torch.softmax(scores, dim=1).transpose(1, 2).unsqueeze(2)  # [batch, heads, 1, sequence]
        parts = x.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)  # [batch, heads, sequence, ·]
        attended = torch.matmul(shares, parts).reshape(batch, width)
        return torch.cat([attended, x.amax(dim=1)], dim=1)


class Head(nn.Module):
    """One hidden layer between the pooled vector and the classes; none where `hidden` is 0."""

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(inputs, hidden) if hidden else nn.Identity()
        self.classes = nn.Linear(hidden or inputs, classes)
        self.has_hidden = bool(hidden)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] for [batch, inputs]."""
        x = self.hidden(self.dropout(pooled))
        return self.classes(self.dropout(torch.relu(x)) if self.has_hidden else x)
