"""A small network over fields: embeddings for categories, numbers beside them, two hidden layers."""

import torch
from torch import nn


class FieldsNet(nn.Module):
    """`logits = net(numbers, missing, categories)`.

    Args:
        numbers: how many number fields.
        categories: codes of each category field, missing and unseen included.
    """

    def __init__(self, numbers: int, categories: list[int], classes: int, width: int) -> None:
        super().__init__()
        sizes = [min(16, (count + 1) // 2) for count in categories]
        self.starts = [sum(categories[:place]) for place in range(len(categories))]
        self.tables = nn.ModuleList(nn.Embedding(count, size) for count, size in zip(categories, sizes, strict=True))
        inside = 2 * numbers + sum(sizes)
        self.layers = nn.Sequential(
            nn.Linear(inside, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, numbers: torch.Tensor, missing: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] for fields [batch, numbers], [batch, numbers], [batch, categories]."""
        parts = [numbers, missing]
        parts += [table(categories[:, place]) for place, table in enumerate(self.tables)]
        logits: torch.Tensor = self.head(self.layers(torch.cat(parts, dim=1)))
        return logits
