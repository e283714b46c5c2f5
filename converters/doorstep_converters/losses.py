"""A student and what it is taught by: one module whose answer is its loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doorstep_converters.students.relations import LastAttention, relation_loss
from doorstep_converters.students.space import averaged


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each lesson counts.

    Attributes:
        temperature: that both sides' logits are divided by; above 1 the teacher's second choices weigh more.
        alpha: share of the teacher's logits against the label where a text has one (0 to 1).
        vector: of the distance to the teacher's vector of the text.
        relations: of the distance to the teacher's attention relations.
    """

    temperature: float = 2.0
    alpha: float = 0.8
    vector: float = 0.0
    relations: float = 0.0


class Lesson(nn.Module):
    """A student in training; what helps it learn is thrown away afterwards.

    Args:
        width: of the teacher's text vectors; 0 where they are not taught.
        heads: of the teacher's attention; 0 where relations are not taught.
    """

    def __init__(self, student: Any, weights: Weights, width: int, heads: int) -> None:
        super().__init__()
        self.student = student
        self.weights = weights
        self.heads = heads
        self.attention = LastAttention(student) if heads else None
        self.translation = nn.Linear(_vector_width(student), width) if width else None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        teacher_vector: torch.Tensor | None = None,
        teacher_relations: torch.Tensor | None = None,
        relation_mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and `logits` [batch, classes]; without the teacher's side the loss is that of the labels."""
        wants_hidden = self.translation is not None
        got = self.student(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=wants_hidden)
        if teacher_logits is None:
            return {"loss": nn.functional.cross_entropy(got.logits, labels), "logits": got.logits}
        loss = self._answers(got.logits, teacher_logits, labels)
        if self.translation is not None and teacher_vector is not None:
            found = self.translation(averaged(got, attention_mask))
            loss = loss + self.weights.vector * vector_loss(found, teacher_vector)
        if self.attention is not None and teacher_relations is not None and relation_mask is not None:
            own = self.attention.stacked()
            loss = loss + self.weights.relations * relation_loss(teacher_relations, own, relation_mask, self.heads)
        return {"loss": loss, "logits": got.logits}

    def _answers(self, logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        soft = logit_loss(logits, teacher, self.weights.temperature)  # [batch]
        is_labelled = labels >= 0
        hard = nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")  # [batch]
        alpha = torch.where(is_labelled, self.weights.alpha, 1.0)
        return (alpha * soft + (1 - alpha) * hard).mean()


def _vector_width(student: Any) -> int:
    """Return how many numbers a student's text vector has, by asking for one."""
    ids, mask = torch.zeros((1, 2), dtype=torch.long), torch.ones((1, 2), dtype=torch.long)  # [1, tokens]
    with torch.no_grad():
        got = student(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return int(averaged(got, mask).shape[-1])


def logit_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T²·KL(teacher, student) of logits [batch, classes] at temperature T → [batch].

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531.
    """
    expected = (teacher / temperature).softmax(dim=-1)
    found = (student / temperature).log_softmax(dim=-1)
    return nn.functional.kl_div(found, expected, reduction="none").sum(dim=-1) * temperature**2


def vector_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 − cosine of vectors [batch, width]."""
    return (1.0 - nn.functional.cosine_similarity(student, teacher, dim=-1)).mean()
