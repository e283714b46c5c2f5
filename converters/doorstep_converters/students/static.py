"""`doorstep-static`: the average of token vectors and a small head, in the manner of model2vec.

The table starts as the teacher's own token space, cut to fewer dimensions, each token weighted by how rare it is
(students.space); distillation teaches it on. Source: https://github.com/MinishLab/model2vec.
"""

import torch

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
