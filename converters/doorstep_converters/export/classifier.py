"""A text classifier as exporters need it: two inputs, one output, a mask that quantizes well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doorstep_converters.architectures import register_architectures

# Additive attention masks, mildest first. exp(-40) is below the resolution of fp32 sums of probabilities, and unlike
# the -3.4e38 of transformers it leaves int8 activation ranges usable: static int8 BERT agrees 1.0 with it and 0.92
# without. It is too mild where attention scores lie tens apart, as where ELECTRA projects embeddings without a norm.
_MASKS = (-40.0, -100.0, -1000.0)
_SAME = 1e-4  # largest difference of a logit, as a share of the largest logit
_MARGIN = 2.0  # a mask is taken if one so many times milder would do: other texts have other scores than those tried
_ROWS, _LENGTH = 64, 24  # of the feeds that masks are compared on: rows of random ids, padded by up to all but two


class Classifier(nn.Module):
    """`logits = model(input_ids, attention_mask)` and nothing else; models that tell texts apart get their types too.

    Args:
        masked: hand the model a finished additive mask [batch, 1, sequence, sequence] float, with this number at
            padding; None hands it the mask of ones and zeros as it is.
    """

    def __init__(self, model: nn.Module, masked: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.masked = masked

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits [batch, classes] for ids, mask and types [batch, sequence]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        mask = attention_mask
        if self.masked is not None:
            length = input_ids.shape[1]
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * self.masked
            mask = mask.expand(-1, -1, length, -1)  # [batch, 1, sequence, sequence]
        return self.read(self.model(input_ids=input_ids, attention_mask=mask, **types), attention_mask)

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


def choose_mask(model: Any, wrap: Callable[[Any, float | None], Classifier] = Classifier) -> Classifier:
    """Wrap `model`, with the mildest additive mask that surely gives the same output."""
    ids, mask = _padded_feeds(model.config.vocab_size)
    plain = wrap(model, None).eval()
    with torch.no_grad():
        expected = plain(ids, mask)
        bound = _SAME * max(1.0, float(expected.abs().max()))
        for masked in _MASKS:
            milder = wrap(model, masked / _MARGIN).eval()
            try:
                difference = float((milder(ids, mask) - expected).abs().max())
            except (RuntimeError, ValueError, IndexError, TypeError):
                return plain
            if difference <= bound:
                return wrap(model, masked).eval()
    return plain


def _padded_feeds(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random ids and a mask [rows, length], each row with another share of padding."""
    ids = torch.randint(vocabulary, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(2, _LENGTH, _ROWS).long()
    return ids, (torch.arange(_LENGTH) < lengths[:, None]).long()


def load_model(
    folder: Path,
    is_pickle_allowed: bool = False,
    auto: str = "AutoModelForSequenceClassification",
    device_map: Any = None,
) -> Any:
    """Load a model in fp32, in eval mode.

    Args:
        auto: the class of transformers that loads it.
        device_map: of accelerate; None loads to the CPU.
    """
    import transformers

    register_architectures()
    model = getattr(transformers, auto).from_pretrained(
        folder,
        use_safetensors=None if is_pickle_allowed else True,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
        device_map=device_map,
    )
    return model.eval()


def example_feeds(batch: int, length: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return feeds of one shape for tracing: ids that every vocabulary has, the last quarter padded."""
    ids = torch.full((batch, length), 5, dtype=dtype)
    mask = torch.ones((batch, length), dtype=dtype)
    mask[:, length - length // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
