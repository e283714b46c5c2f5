"""`doorstep-cnn`: n-gram filters over token vectors, and attention pooling or a head over each token.

After Kim, Convolutional Neural Networks for Sentence Classification, https://arxiv.org/abs/1408.5882, with the filters
as dense layers over windows, a second layer that reads n-grams of n-grams, and attention beside the maximum.
"""

from itertools import pairwise

import torch
from torch import nn

from doorstep_converters.students.layers import AttentionPooling, NGrams, masked_mean
from doorstep_converters.students.model import Student, StudentConfig, Tagger


class CnnConfig(StudentConfig):
    """Configuration of `doorstep-cnn`.

    Attributes:
        filters: of each layer.
        layers: of n-gram filters, each over `2·reach + 1` places of the one below.
        heads: of the attention pooling.
    """

    model_type = "doorstep-cnn"
    filters: int = 96
    layers: int = 1
    reach: int = 1
    heads: int = 4


class CnnForSequenceClassification(Student):
    """Knows which short sequences of tokens a text has."""

    config_class = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        sizes = [config.hidden_size] + [config.filters] * config.layers
        self.layers = nn.ModuleList(NGrams(inputs, outputs, config.reach) for inputs, outputs in pairwise(sizes))
        self.pooling = AttentionPooling(config.filters, config.heads)
        self.features = 2 * config.filters + config.hidden_size
        self.build(config)

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bag = masked_mean(x, mask)  # [batch, hidden_size]
        for number, layer in enumerate(self.layers):
            x = layer(x, mask) + x if number else layer(x, mask)
        return torch.cat([self.pooling(x, mask), bag], dim=1)


class CnnForTokenClassification(Tagger):
    """Knows each token's neighbours, and which tokens the text has.

    Each layer reaches twice as far as the one below it; the average of all tokens tells what the text is about.
    """

    config_class = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        sizes = [config.hidden_size] + [config.filters] * config.layers
        self.layers = nn.ModuleList(
            NGrams(inputs, outputs, config.reach, 1 << number)
            for number, (inputs, outputs) in enumerate(pairwise(sizes))
        )
        self.about = nn.Linear(config.hidden_size, config.filters)
        self.features = config.filters + config.hidden_size
        self.build(config)

    def read(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        about = self.about(masked_mean(x, mask)).unsqueeze(1)  # [batch, 1, filters]
        seen = self.layers[0](x, mask) + about * mask  # [batch, sequence, filters]
        for layer in self.layers[1:]:
            seen = layer(seen, mask) + seen
        return torch.cat([seen, x], dim=2)
