"""From a taught corpus to batches: texts of like length together, tokens made on the way, some tokens left out."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from doorstep.tensors import Array
from doorstep_converters.data import Row

_READ_TOGETHER = 256  # neighbouring rows that are read at once: the disk is read in runs, not row by row
_BLOCKS_MIXED = 64  # such runs that one shuffle mixes
UNLABELLED = -1


class Batches(Sampler[list[int]]):
    """Batches of row numbers, in another order every epoch, the same for the same seed.

    Runs of neighbouring rows are mixed, and rows of like length share a batch, so that little is spent on padding and
    a corpus on disk is read in runs.

    Args:
        lengths: of the texts, in any unit.
    """

    def __init__(self, lengths: Array, batch: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return sum(-(-len(part) // self._batch) for part in self._mixed())

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch))
        for part in self._mixed():
            noisy = self._lengths[part] * order.uniform(0.9, 1.1, len(part))  # else the batches were always the same
            rows = part[np.argsort(noisy, kind="stable")]
            starts = np.arange(0, len(rows), self._batch)
            for start in order.permutation(starts):
                yield rows[start : start + self._batch].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls it."""
        self._epoch = int(epoch)

    def _mixed(self) -> list[Array]:
        order = np.random.default_rng((self._seed, self._epoch, 1))
        rows = np.arange(len(self._lengths))
        runs = [rows[start : start + _READ_TOGETHER] for start in range(0, len(rows), _READ_TOGETHER)]
        order.shuffle(runs)
        return [np.concatenate(runs[start : start + _BLOCKS_MIXED]) for start in range(0, len(runs), _BLOCKS_MIXED)]


def text_lengths(corpus: Dataset) -> Array:
    """Return the characters of each text [rows] float64, read batch by batch."""
    import pyarrow.compute as compute

    column = corpus.data.column("text")
    return np.concatenate([compute.utf8_length(chunk).to_numpy().astype(np.float64) for chunk in column.chunks])


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes tensors of rows.

    Attributes:
        tokenizer: the student's.
        max_length: tokens it keeps of a text.
        dropped: share of tokens left out of a training text, another choice each time (0 to 1).
        keeps_places: the teacher's relations belong to tokens, so none may be left out.
    """

    tokenizer: Any
    max_length: int
    dropped: float
    keeps_places: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask [batch, sequence], labels [batch] and what the rows hold of the teacher."""
        encoded = self.tokenizer([row["text"] for row in rows], truncation=True, max_length=self.max_length)
        ids = [
            self._thinned(row_ids) if "logits" in row and not self.keeps_places else row_ids
            for row, row_ids in zip(rows, encoded["input_ids"], strict=True)
        ]
        batch = padded(ids, self.tokenizer.pad_token_id)
        batch["labels"] = torch.tensor([row["label"] for row in rows])
        for name, source in (("teacher_logits", "logits"), ("teacher_vector", "vector")):
            if source in rows[0]:
                batch[name] = torch.tensor(np.array([row[source] for row in rows], np.float32))
        if "relations" in rows[0]:
            batch |= _relations(rows, [len(row_ids) for row_ids in ids], batch["input_ids"].shape[1])
        return batch

    def _thinned(self, ids: list[int]) -> list[int]:
        """Leave out some tokens but the first, which marks the start."""
        if not self.dropped:
            return ids
        return [ids[0], *(token for token in ids[1:] if random.random() >= self.dropped)]  # noqa: S311


def padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask [batch, longest] int64."""
    longest = max(1, *map(len, rows))
    ids = np.full((len(rows), longest), pad, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _relations(rows: Sequence[dict[str, Any]], lengths: Sequence[int], longest: int) -> dict[str, torch.Tensor]:
    """Return the teacher's query, key and value [batch, sequence, 3, width] and which places count [batch, sequence].

    A text that the student cuts into another number of tokens counts nowhere.
    """
    width = len(rows[0]["relations"]) // (3 * len(rows[0]["tokens"]))
    stacked = np.zeros((len(rows), longest, 3, width), np.float32)
    counted = np.zeros((len(rows), longest), np.float32)
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if len(row["tokens"]) == length:
            stacked[place, :length] = np.asarray(row["relations"], np.float32).reshape(length, 3, width)
            counted[place, :length] = 1
    return {"teacher_relations": torch.from_numpy(stacked), "relation_mask": torch.from_numpy(counted)}


def dev_rows(rows: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return labelled texts as rows that hold nothing of the teacher."""
    places = {label: place for place, label in enumerate(labels)}
    return [{"text": row.text, "label": places[row.label]} for row in rows]
