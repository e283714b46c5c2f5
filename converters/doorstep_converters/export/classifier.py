"""A text classifier as exporters need it: two inputs, one output, a mask that quantizes well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Additive attention mask. exp(-40) is below the resolution of fp32 sums of probabilities, and unlike the -3.4e38 of
# transformers it leaves int8 activation ranges usable: static int8 BERT agrees 1.0 with it and 0.92 without.
_MASKED = -40.0
_SAME = 1e-4


class Classifier(nn.Module):
    """`logits = model(input_ids, attention_mask)` and nothing else.

    Args:
        has_own_mask: hand the model a finished additive mask [batch, 1, sequence, sequence] float.
    """

    def __init__(self, model: nn.Module, has_own_mask: bool) -> None:
        super().__init__()
        self.model = model
        self.has_own_mask = has_own_mask

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] for ids and mask [batch, sequence]."""
        mask = attention_mask
        if self.has_own_mask:
            length = input_ids.shape[1]
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * _MASKED
            mask = mask.expand(-1, -1, length, -1)  # [batch, 1, sequence, sequence]
        return self.read(self.model(input_ids=input_ids, attention_mask=mask), attention_mask)

    def read(self, output: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what the graph gives; `attention_mask` [batch, sequence] is the one that came in."""
        logits: torch.Tensor = output.logits
        return logits


def load_classifier(folder: Path, is_pickle_allowed: bool = False) -> Classifier:
    """Load a checkpoint for export: eager attention, and its own mask where that changes no answer.

    Architectures that read their mask in another way (DeBERTa) keep transformers' mask: the two are compared here.
    """
    model = load_model(folder, is_pickle_allowed)
    model.set_attn_implementation("eager")
    return choose_mask(model)


def choose_mask(model: Any, wrap: Callable[[Any, bool], Classifier] = Classifier) -> Classifier:
    """Wrap `model`, with the quantizable mask where it gives the same output."""
    ids = torch.arange(5, 29, dtype=torch.long).reshape(2, 12) % model.config.vocab_size  # [2, 12]
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    plain, own = wrap(model, False).eval(), wrap(model, True).eval()
    with torch.no_grad():
        expected = plain(ids, mask)
        try:
            difference = float((own(ids, mask) - expected).abs().max())
        except (RuntimeError, ValueError, IndexError, TypeError):
            return plain
    return own if difference <= _SAME else plain


def load_model(folder: Path, is_pickle_allowed: bool = False) -> Any:
    """Load a sequence-classification model in fp32, in eval mode."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        use_safetensors=None if is_pickle_allowed else True,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
    )
    return model.eval()


def example_feeds(batch: int, length: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return feeds of one shape for tracing: ids that every vocabulary has, the last quarter padded."""
    ids = torch.full((batch, length), 5, dtype=dtype)
    mask = torch.ones((batch, length), dtype=dtype)
    mask[:, length - length // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
