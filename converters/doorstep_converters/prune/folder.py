"""A checkpoint loaded to be pruned, and what became of it written beside its tokenizer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from doorstep.errors import DataError, UsageError
from doorstep_converters.export.classifier import load_model
from doorstep_converters.prune.importance import labelled_batches
from doorstep_converters.tokenizer import load_tokenizer

_TEXTS = 512  # on which importance is asked
_CARRIED = ("sentence_bert_config.json", "README.md")


@dataclass(slots=True)
class Opened:
    """A checkpoint in memory."""

    folder: Path
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, checkpoint: str) -> "Opened":
        folder = Path(checkpoint)
        return cls(folder, load_model(folder), load_tokenizer(folder))

    def batches(self, data: str, max_length: int) -> list[dict[str, torch.Tensor]]:
        """Return training texts as feeds, thinned evenly.

        Raises:
            DataError: no labelled training texts, or a label that the head lacks.
        """
        pairs = json.loads(Path(data).read_text(encoding="utf-8"))["train"]
        if not pairs:
            raise DataError(f"{data}: expected labelled training texts to ask what matters, got none")
        known = set(self.model.config.id2label.values())
        if unknown := sorted({label for _, label in pairs} - known):
            raise DataError(f"{data}: the checkpoint's head lacks the label {unknown[0]!r:.60}")
        step = max(1, -(-len(pairs) // _TEXTS))
        return labelled_batches(self.model, self.tokenizer, pairs[::step], max_length)

    def write(self, out: Path) -> None:
        """Write model, tokenizer and what says how long a text may be and under which licence the weights are."""
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        carry(self.folder, out)


def carry(source: Path, target: Path) -> None:
    """Copy what says how long a text may be and under which licence the weights are."""
    for name in _CARRIED:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())


def parameters(model: Any) -> int:
    """Count a model's weights."""
    return sum(weight.numel() for weight in model.parameters())


def check_share(name: str, share: float) -> None:
    """Refuse a share that keeps nothing or more than all.

    Raises:
        UsageError: it is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"{name}: expected a share above 0 and at most 1, got {share}")
