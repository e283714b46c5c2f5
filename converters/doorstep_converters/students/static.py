"""`doorstep-static`: the average of token vectors and a small head, in the manner of model2vec.

The table starts as the teacher's own token space, cut to fewer dimensions, each token weighted by how rare it is
(students.space); distillation teaches it on. Source: https://github.com/MinishLab/model2vec.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from doorstep_converters.students.layers import masked_mean
from doorstep_converters.students.model import Student, StudentConfig


class StaticConfig(StudentConfig):
    """Configuration of `doorstep-static`."""

    model_type = "doorstep-static"
    hidden_size: int = 128
    head_width: int = 128


class StaticForSequenceClassification(Student):
    """Knows which tokens a text has, not their order."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.features = config.hidden_size
        self.build(config)

    def pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return masked_mean(x, mask)


class StaticModel(PreTrainedModel):
    """The table alone, for what pools by itself; a token's state is its vector, whatever stands around it."""

    config_class = StaticConfig
    main_input_name = "input_ids"
    base_model_prefix = ""

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **unused: Any) -> BaseModelOutput:
        """Return states [batch, sequence, hidden_size], also at padding."""
        return BaseModelOutput(last_hidden_state=self.table(input_ids))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
