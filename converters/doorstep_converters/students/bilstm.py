"""`doorstep-bilstm`: one layer of LSTM in both directions over token vectors, pooled, or a head over each token.

The reverse direction starts in the padding, so its state there must stay zero. No engine needs the texts' lengths for
that: the cell reads "this is padding" as one more input, whose fixed weights close its input and forget gates.
"""

from typing import Any

import torch
from torch import nn

from doorstep_converters.students.layers import AttentionPooling, masked_mean
from doorstep_converters.students.model import Student, StudentConfig, Tagger

_CLOSED = -40.0  # sigmoid(-40) is 4e-18


class BiLstmConfig(StudentConfig):
    """Configuration of `doorstep-bilstm`.

    Attributes:
        filters: states of each direction.
        heads: of the attention pooling.
    """

    model_type = "doorstep-bilstm"
    filters: int = 64
    heads: int = 4


class BiLstmForSequenceClassification(Student):
    """Knows the order of the tokens."""

    config_class = BiLstmConfig

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config)
        self.cell = _cell(config)
        self.pooling = AttentionPooling(2 * config.filters, config.heads)
        self.features = 4 * config.filters + config.hidden_size
        self.build(config)

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        fired = torch.relu(_states(self.cell, x, mask))
        return torch.cat([self.pooling(fired, mask), masked_mean(x, mask)], dim=1)

    def train(self, mode: bool = True) -> "BiLstmForSequenceClassification":
        """Switch between training and answering; gates that padding closes are closed again, whatever was learnt."""
        super().train(mode)
        _close(self.cell)
        return self


class BiLstmForTokenClassification(Tagger):
    """Knows for each token what stands before it and behind it, in order."""

    config_class = BiLstmConfig

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config)
        self.cell = _cell(config)
        self.features = 2 * config.filters + config.hidden_size
        self.build(config)

    def read(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([_states(self.cell, x, mask), x], dim=2)

    def train(self, mode: bool = True) -> "BiLstmForTokenClassification":
        """Switch between training and answering; gates that padding closes are closed again, whatever was learnt."""
        super().train(mode)
        _close(self.cell)
        return self


def _cell(config: BiLstmConfig) -> nn.LSTM:
    return nn.LSTM(config.hidden_size + 1, config.filters, batch_first=True, bidirectional=True)


def _states(cell: nn.LSTM, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the states of both directions [batch, sequence, 2·filters], 0 at padding."""
    states: torch.Tensor = cell(torch.cat([x, 1.0 - mask], dim=2))[0]
    return states * mask


def _close(cell: Any) -> None:
    states = cell.hidden_size
    with torch.no_grad():
        for weight in (cell.weight_ih_l0, cell.weight_ih_l0_reverse):  # rows: input, forget, cell, output
            weight[: 2 * states, -1] = _CLOSED
            weight[2 * states :, -1] = 0.0
