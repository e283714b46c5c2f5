"""The teacher answers a corpus, once: text by text in, Arrow files out, never more than one shard in memory."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.errors import DataError
from doorstep_converters.ask import REMEDY
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.memory import Batches
from doorstep_converters.placement import feeds_device, load_teacher
from doorstep_converters.precision import is_bf16, products
from doorstep_converters.students.relations import LastAttention
from doorstep_converters.students.space import averaged
from doorstep_converters.tasks.sentence_similarity_encoder import SentenceEncoder
from doorstep_converters.taught import EXTRAS, Taught, is_whole, read_corpus, write_index, write_shard
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

SHARD = 2048  # texts of one Arrow file
_BATCH = 64


def answer(
    out: Path,
    channel: Channel,
    checkpoint: str,
    corpus: str,
    max_length: int,
    extras: Sequence[str] = (),
    resume: str = "",
    is_encoder: bool = False,
    is_pickle_allowed: bool = False,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Write the teacher's logits for every text of a corpus to `out`; a job of `stages`.

    Args:
        corpus: a `.jsonl` file of texts, labelled or not.
        max_length: tokens of the teacher's own that it reads of a text.
        extras: of `taught.EXTRAS`.
        resume: folder that keeps finished shards until all are made, so that a killed run goes on from there; shards
            of another teacher, corpus, length or precision are not looked at. A resumable stage has its own folder.
        is_encoder: the teacher is a sentence encoder: it has vectors, as its folder says they are made, and no logits.
        precision: of the matrix products of a teacher that is no encoder, as `precision.is_bf16` reads it.

    Raises:
        ConversionError: one text does not fit into memory.
        DataError: a label that the teacher lacks, an unknown extra, or no texts.
    """
    if unknown := set(extras) - set(EXTRAS):
        raise DataError(f"extras: expected some of {', '.join(EXTRAS)}, got {min(unknown)!r}")
    found = find_checkpoint(checkpoint, is_pickle_allowed=is_pickle_allowed)
    longest = min(max_length, found.max_length)
    teacher: _Teacher | _Encoder
    if is_encoder:
        extras, teacher = ("vector",), _Encoder(found.folder, longest, is_pickle_allowed)
    else:
        teacher = _Teacher(found.folder, longest, tuple(extras), channel.note, precision)
    kept_in = resume or channel.kept
    work = (
        Path(kept_in) / _key(found.digest, Path(corpus), max_length, (*extras, "encoder" if is_encoder else precision))
        if kept_in
        else out
    )
    work.mkdir(parents=True, exist_ok=True)
    total, done, kept = _count(Path(corpus)), 0, 0
    for number, rows in enumerate(_shards(Path(corpus))):
        path = work / f"{number:05}.arrow"
        if is_whole(path):
            kept += 1
        else:
            write_shard(path, teacher.answer(rows), tuple(extras))
        done += len(rows)
        channel.progress(done / total)
    if not done:
        raise DataError(f"{corpus}: expected texts for the teacher to answer, got none")
    taught = Taught(done, teacher.labels, tuple(extras), teacher.width, teacher.heads)
    if work != out:
        for path in work.glob("*.arrow"):
            _move(path, out / path.name)
        shutil.rmtree(work)
    for path in out.glob("*.sha256"):
        path.unlink()
    write_index(out, taught)
    return {"rows": done, "kept_shards": kept, "labels": list(teacher.labels)}


class _Teacher:
    """A checkpoint that answers batches.

    Args:
        max_length: tokens it reads of a text.
        say: called with what the user should know.
        precision: of matrix products, as `precision.is_bf16` reads it.
    """

    def __init__(
        self, folder: Path, max_length: int, extras: tuple[str, ...], say: Callable[[str], None], precision: str
    ) -> None:
        self._model = load_teacher(folder)
        self._has_bf16 = is_bf16(precision, on_gpu=feeds_device().type == "cuda")
        self._tokenizer = load_tokenizer(folder)
        self._max_length = max_length
        self._extras = extras
        names = self._model.config.id2label
        self.labels = tuple(str(names[place]) for place in sorted(names))
        self._places = {label: place for place, label in enumerate(self.labels)}
        self._attention = LastAttention(self._model) if "relations" in extras else None
        self.heads = self._attention.heads if self._attention else 0
        self.width = len(self._batch([""])[0].get("vector", ()))
        self._batches = Batches(_BATCH, "the teacher", REMEDY, say)

    def answer(self, rows: Sequence[tuple[str, str | None]]) -> dict[str, list[Any]]:
        """Return the columns of `taught.features` for some texts; texts of like length are read together."""
        columns: dict[str, list[Any]] = {
            "text": [text for text, _ in rows],
            "label": [self._place(label) for _, label in rows],
        }
        order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
        found: list[dict[str, Any]] = [{}] * len(rows)
        answers = self._batches.ask([rows[place][0] for place in order], self._batch)
        for place, answered in zip(order, answers, strict=True):
            found[place] = answered
        for name in found[0]:
            columns[name] = [answered[name] for answered in found]
        return columns

    @torch.no_grad()
    def _batch(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(feeds_device())
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        with products(feeds_device(), self._has_bf16):
            got = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        rows: list[dict[str, Any]] = [{"logits": row} for row in got.logits.float().cpu().numpy()]
        if "vector" in self._extras:
            vectors = averaged(got, mask).float().cpu().numpy().astype(np.float16)  # [batch, width]
            for row, vector in zip(rows, vectors, strict=True):
                row["vector"] = vector
        if self._attention:
            parts = self._attention.stacked().float().cpu().numpy().astype(np.float16)  # [batch, sequence, 3, width]
            for row, part, length, tokens in zip(rows, parts, mask.sum(dim=1).tolist(), ids.cpu().numpy(), strict=True):
                row["tokens"] = tokens[:length].astype(np.int32)
                row["relations"] = part[:length].reshape(-1)
        return rows

    def _place(self, label: str | None) -> int:
        if label is None:
            return -1
        if label not in self._places:
            raise DataError(
                f"corpus: the teacher's head has {len(self.labels)} labels and lacks {label!r:.60}; "
                "correct the label, or leave it out to have the teacher decide"
            )
        return self._places[label]


class _Encoder:
    """A sentence encoder; its answers have no labels and no logits."""

    labels: tuple[str, ...] = ()
    heads = 0

    def __init__(self, folder: Path, max_length: int, is_pickle_allowed: bool) -> None:
        self._encoder = SentenceEncoder.load(folder, max_length, is_pickle_allowed)
        self.width = len(self._encoder.vectors([""])[0])

    def answer(self, rows: Sequence[tuple[str, str | None]]) -> dict[str, list[Any]]:
        """Return the columns of `taught.features` for some texts."""
        texts = [text for text, _ in rows]
        vectors = self._encoder.vectors(texts).astype(np.float16)  # [texts, width]
        return {"text": texts, "label": [-1] * len(texts), "logits": [[]] * len(texts), "vector": list(vectors)}


def _key(teacher: str, corpus: Path, max_length: int, extras: Sequence[str]) -> str:
    with open(corpus, "rb") as file:
        parts = [teacher, hashlib.file_digest(file, "sha256").hexdigest(), max_length, sorted(extras)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _move(source: Path, target: Path) -> None:
    """Give a file a second name, which costs no second copy; a copy where the two are on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _shards(corpus: Path) -> Iterator[list[tuple[str, str | None]]]:
    rows = read_corpus(corpus)
    while shard := list(islice(rows, SHARD)):
        yield shard


def _count(corpus: Path) -> int:
    with open(corpus, "rb") as file:
        return max(1, sum(1 for _ in file))
