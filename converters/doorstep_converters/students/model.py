"""The frames all small students share: token ids in, a head over the text or over each token, known to transformers."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

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


class Table(PreTrainedModel):
    """What every small student begins with: a table of token vectors; and a head of `features` numbers, at its end."""

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

    def look_up(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return token vectors [batch, sequence, hidden_size], 0 at padding."""
        return self.token_dropout(self.table(input_ids)) * mask

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)


class Student(Table):
    """A table of token vectors, something that turns them into one vector, and a head.

    A subclass sets `features` (the vector's length) in its constructor and writes `pool`.
    """

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Turn token vectors [batch, sequence, hidden_size], 0 at padding, into text vectors [batch, features].

        `mask` is [batch, sequence, 1] float.
        """
        raise NotImplementedError

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return logits [batch, classes], the loss where there are `labels` [batch], and the text vectors.

        `hidden_states` holds nothing but the text vectors [batch, features].
        """
        mask = _column(attention_mask)
        pooled = self.pool(self.look_up(input_ids, mask), mask)
        logits = self.head(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=(pooled,))


class Tagger(Table):
    """A table of token vectors, something that lets each see its neighbours, and a head over each token.

    A subclass sets `features` (numbers of a token in front of the head) in its constructor and writes `read`.
    """

    def read(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Turn token vectors [batch, sequence, hidden_size], 0 at padding, into [batch, sequence, features].

        `mask` is [batch, sequence, 1] float.
        """
        raise NotImplementedError

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **unused: Any) -> TokenClassifierOutput:
        """Return logits [batch, sequence, labels] for ids and mask [batch, sequence]."""
        mask = _column(attention_mask)
        return TokenClassifierOutput(logits=self.head(self.read(self.look_up(input_ids, mask), mask)))


def _column(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mask as [batch, sequence, 1] float."""
    if attention_mask.dim() != 2:
        raise ValueError("attention_mask: expected [batch, sequence]")
    return attention_mask.unsqueeze(2).to(torch.float32)
