"""A sentence encoder at work: texts in, vectors out, many at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.tensors import Array
from doorstep_converters.export.classifier import load_model
from doorstep_converters.tasks.sentence_similarity_pooling import Pooled
from doorstep_converters.tasks.sentence_similarity_recipe import load_dense, read_recipe
from doorstep_converters.tokenizer import load_tokenizer

_BATCH = 64


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """A model with its pooling and dense layers, and its tokenizer.

    Attributes:
        max_length: tokens it reads of a text.
    """

    pooled: Pooled
    tokenizer: Any
    max_length: int

    @classmethod
    def load(cls, folder: Path, max_length: int, is_pickle_allowed: bool = False) -> "SentenceEncoder":
        """Load a sentence-transformers folder, onto a GPU where there is one."""
        recipe = read_recipe(folder)
        layers = [load_dense(folder / path) for path in recipe.dense]
        model = load_model(folder, is_pickle_allowed, "AutoModel")
        pooled = Pooled.of(recipe.pooling, layers)(model, None).eval()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(pooled.to(device), load_tokenizer(folder), max_length)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Array:
        """Return vectors [texts, width] float32, not scaled; texts of like length are read together."""
        device = next(self.pooled.parameters()).device
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found: list[Any] = [None] * len(texts)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            encoded = self.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=self.max_length,
                return_tensors="pt",
            ).to(device)  # fmt: skip
            rows = self.pooled(encoded["input_ids"], encoded["attention_mask"]).float().cpu().numpy()
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return np.array(found, np.float32)
