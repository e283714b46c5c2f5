"""The frame all small students share: token ids in, one vector a text, a head; loaded and saved by transformers."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from doorstep_converters.students.layers import Head


class StudentConfig(PreTrainedConfig):
    """What the small students' configurations share.

    Attributes:
        hidden_size: numbers a token has in the table.
        head_width: of the hidden layer in front of the classes; 0 for none.
        dropout: share of values dropped in training.
    """

    vocab_size: int = 4096
    hidden_size: int = 64
    head_width: int = 0
    dropout: float = 0.1
    pad_token_id: int | None = 0
    max_position_embeddings: int = 512


class Student(PreTrainedModel):
    """A table of token vectors, something that turns them into one vector, and a head.

    A subclass sets `features` (the vector's length) in its constructor and writes `pool`.
    """

    config_class = StudentConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    features: int

    def build(self, config: Any, rows: int = 0) -> None:
        """Make table and head; the last call of a subclass's constructor. `rows` 0 makes one for each token."""
        self.table = nn.Embedding(rows or config.vocab_size, config.hidden_size)
        self.head = Head(self.features, config.head_width, config.num_labels, config.dropout)
        self.token_dropout = nn.Dropout(config.dropout)
        self.post_init()

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Turn token vectors [batch, sequence, hidden_size], 0 at padding, into text vectors [batch, features].

        `mask` is [batch, sequence, 1] float.
        """
        raise NotImplementedError

    def look_up(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return token vectors [batch, sequence, hidden_size], 0 at padding."""
        return self.token_dropout(self.table(input_ids)) * mask

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **unused: Any) -> SequenceClassifierOutput:
        """Return logits [batch, classes]; `hidden_states` holds the text vector [batch, features] alone."""
        if attention_mask.dim() != 2:
            raise ValueError("attention_mask: expected [batch, sequence]")
        mask = attention_mask.unsqueeze(2).to(torch.float32)  # [batch, sequence, 1]
        pooled = self.pool(self.look_up(input_ids, mask), mask)
        return SequenceClassifierOutput(logits=self.head(pooled), hidden_states=(pooled,))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
