"""`doorstep-hashed`: n-grams of characters, hashed in the graph to rows of one table, and attention pooling.

The tokenizer only knows characters, so it takes a few kB and no word is unknown to it; what a misspelt word shares with
the right one is most of its n-grams. After Kaliamoorthi et al., Distilling Large Language Models into Tiny and
Effective Students using pQRNN, https://arxiv.org/abs/2101.08890, and Joulin et al., Bag of Tricks for Efficient Text
Classification, https://arxiv.org/abs/1607.01759.
"""

import torch
from torch import nn

from doorstep_converters.students.layers import AttentionPooling, masked_mean
from doorstep_converters.students.model import Student, StudentConfig

_FACTOR = 1009  # with up to 2^20 rows a product stays below 2^31, so that 32-bit integers do


class HashedConfig(StudentConfig):
    """Configuration of `doorstep-hashed`.

    Attributes:
        rows: of the table, at most 2^20.
        longest: characters of the longest n-gram.
        filters: of the dense layer over what ends at each place.
        heads: of the attention pooling.
    """

    model_type = "doorstep-hashed"
    rows: int = 8192
    longest: int = 5
    filters: int = 64
    heads: int = 4


class HashedForSequenceClassification(Student):
    """Knows the n-grams of characters that a text has."""

    config_class = HashedConfig

    def __init__(self, config: HashedConfig) -> None:
        super().__init__(config)
        self.filters = nn.Linear(config.hidden_size, config.filters)
        self.pooling = AttentionPooling(config.filters, config.heads)
        self.features = 2 * config.filters + config.hidden_size
        self.build(config, config.rows)

    def look_up(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Add up the rows of the n-grams that end at each place; they reach back only, so never into padding."""
        rows, length = self.config.rows, input_ids.shape[1]
        hashed = input_ids % rows  # [batch, sequence]
        found = self.table(hashed)
        for back in range(1, self.config.longest):
            earlier = nn.functional.pad(input_ids, (back, 0))[:, :length]  # [batch, sequence]
            hashed = (hashed * _FACTOR + earlier + back) % rows
            found = found + self.table(hashed)
        return self.token_dropout(found) * mask

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        fired = torch.relu(self.filters(x)) * mask  # [batch, sequence, filters]
        return torch.cat([self.pooling(fired, mask), masked_mean(x, mask)], dim=1)
