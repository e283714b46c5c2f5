"""A sentence encoder at work: texts in, vectors out, many at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.tensors import Array
from doorstep_converters.ask import REMEDY
from doorstep_converters.export.classifier import load_model
from doorstep_converters.memory import Batches, to_log
from doorstep_converters.placement import device_of, feeds_device
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
        return cls(pooled.to(feeds_device()), load_tokenizer(folder), max_length)

    def vectors(self, texts: Sequence[str]) -> Array:
        """Return vectors [texts, width] float32, not scaled; texts of like length are read together.

        Raises:
            ConversionError: one text does not fit into memory.
        """
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        batches = Batches(_BATCH, "the encoder", REMEDY, to_log)
        found: list[Any] = [None] * len(texts)
        for place, row in zip(order, batches.ask([texts[place] for place in order], self._read), strict=True):
            found[place] = row
        return np.array(found, np.float32)

    @torch.no_grad()
    def _read(self, texts: Sequence[str]) -> Array:
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(device_of(self.pooled))
        vectors: Array = self.pooled(encoded["input_ids"], encoded["attention_mask"]).float().cpu().numpy()
        return vectors
