"""A student of a sentence encoder learns vectors: its own lie in the teacher's space, cut to the student's width.

The space is turned to the principal directions of the texts, so a narrow student keeps what tells texts apart most, and
its first numbers say more than its last. On Abt-Buy that came nearer to the teacher than a learnt map to its width and
than matching the similarities within a batch; see `sdk/docs/tasks/sentence-similarity.md`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import set_seed

from doorstep.tensors import Array
from doorstep_converters.lessons import Collator, text_lengths
from doorstep_converters.losses import vector_loss
from doorstep_converters.placement import device_of
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks.loop import Course, fit
from doorstep_converters.tasks.sentence_similarity_build import build, write
from doorstep_converters.tasks.sentence_similarity_encoder import SentenceEncoder
from doorstep_converters.tasks.sentence_similarity_recipe import read_recipe
from doorstep_converters.tasks.sentence_similarity_students import NEIGHBOURS, TEACHING, sentence
from doorstep_converters.taught import open_taught
from doorstep_converters.worker import Channel

_READ_TOGETHER = 2048  # rows of the corpus
_DROPPED = 0.1  # share of tokens left out of a training text
_SHARE = 1e-2  # a table's learning rate, of the size of its numbers
_RATE = 1e-4  # of a transformer
_BATCH = {"static": 64, "transformer": 32}
_STEPS = {"static": 1000, "transformer": 450}  # updates, where the corpus is neither so small nor so large that
_PASSES = {"static": (5, 200), "transformer": (3, 50)}  # it is read another number of times


def learn(
    out: Path, channel: Channel, teacher: str, taught: str, spec: dict[str, Any], options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Build a student, teach it and write it to `out/checkpoint`; a job of `stages`.

    Args:
        taught: folder that `teach.answer` wrote of an encoder: texts to learn from, then dev, then test.
        options: `train` and `dev` (how many of the first texts are theirs), `max_length` (tokens read in training),
            `reads` (tokens the teacher can read), `seed`, `epochs`, `learning_rate`, `licence`, `name` of the teacher.
    """
    set_seed(options["seed"])
    student, folder, count = StudentSpec(**spec), Path(teacher), options["train"]
    corpus = open_taught(Path(taught)).with_format("numpy")
    space = directions(corpus.select(range(count)), student)
    reader = SentenceEncoder.load(folder, options["max_length"], options["is_pickle_allowed"])
    learner = build(student, folder, reader, corpus["text"][:count], space, options["max_length"])
    del reader
    test = _Held(corpus.select(range(count + options["dev"], len(corpus))), space)
    dev = _Held(corpus.select(range(count, count + options["dev"])), space)
    before = test.figures(learner)
    fewest, most = _PASSES[student.kind]
    passes = min(most, max(fewest, _STEPS[student.kind] * _BATCH[student.kind] // count))
    epochs = max(1, round(options["epochs"] or passes))
    rate = options["learning_rate"] or (_SHARE * _size(learner) if student.kind == "static" else _RATE)
    decay = 0.0 if student.kind == "static" else 0.01  # a token that no text has keeps its vector
    course = Course(epochs, _BATCH[student.kind], rate, decay, seed=options["seed"])
    lengths = text_lengths(corpus)
    lesson = _Lesson(learner, corpus, space, read_recipe(folder).is_normalized)
    figures = fit(
        learner.pooled, range(count), lesson.loss, lambda: dev.figures(learner)["cosine"], course, channel,
        lambda place: int(lengths[place]),
    )  # fmt: skip
    built = replace(student, width=len(space) if student.width else 0)  # no wider than its teacher
    found = {
        "student": built.name,
        "teacher": options["name"],
        "texts": count,
        "held_out": len(test.texts),
        "before": before,
        "after": test.figures(learner),
    }
    write(out / "checkpoint", learner, folder, student, options)
    (out / "checkpoint" / TEACHING).write_text(json.dumps(found), encoding="utf-8")
    return {**figures, **found, "notes": [sentence(found)]}


def directions(corpus: Dataset, student: StudentSpec) -> torch.Tensor:
    """Return what a teacher's vector is multiplied by to be the student's [student's width, teacher's width].

    Orthonormal rows: the leading directions of the texts' unit vectors, or the axes as they are for a transformer.
    """
    width = len(corpus[0]["vector"])
    if student.kind == "transformer":
        return torch.eye(width)
    total = torch.zeros((width, width), dtype=torch.float64)
    for start in range(0, len(corpus), _READ_TOGETHER):
        vectors = torch.tensor(np.array(corpus[start : start + _READ_TOGETHER]["vector"], np.float64))
        unit = nn.functional.normalize(vectors, dim=-1)  # [rows, width]
        total += unit.T @ unit
    _, found = torch.linalg.eigh(total)  # the largest stands last
    return found.flip(1).T[: student.width].float().contiguous()


class _Lesson:
    """The loss of a batch of places in the corpus."""

    def __init__(self, learner: SentenceEncoder, corpus: Dataset, space: torch.Tensor, is_normalized: bool) -> None:
        self._learner, self._corpus, self._space = learner, corpus, space
        self._collator = Collator(learner.tokenizer, learner.max_length, _DROPPED)
        self._is_normalized = is_normalized

    def loss(self, places: list[int]) -> torch.Tensor:
        columns = self._corpus[places]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        batch = self._collator(rows)
        device = device_of(self._learner.pooled)
        found = self._learner.pooled(batch["input_ids"].to(device), batch["attention_mask"].to(device))
        wanted = (batch["teacher_vector"] @ self._space.T).to(device)  # [batch, student's width], as `found`
        loss = vector_loss(found, wanted)
        if self._is_normalized:
            return loss
        off = (found - wanted).square().sum(dim=-1) / wanted.square().sum(dim=-1).clamp(min=1e-12)  # length counts too
        return loss + off.mean()


class _Held:
    """Texts a student is judged on."""

    def __init__(self, corpus: Dataset, space: torch.Tensor) -> None:
        self.texts = list(corpus["text"])
        self.wanted = torch.tensor(np.array(corpus["vector"][:], np.float32))  # [texts, teacher's width]
        self.space = space

    def figures(self, learner: SentenceEncoder) -> dict[str, float]:
        """Return the mean cosine to the teacher's whole vectors, and how many of its nearest are the student's."""
        found = torch.from_numpy(learner.vectors(self.texts))  # [texts, student's width]
        cosine = nn.functional.cosine_similarity(found @ self.space, self.wanted, dim=-1).mean()
        return {"cosine": round(float(cosine), 5), "overlap": round(overlap(found.numpy(), self.wanted.numpy()), 5)}


def overlap(one: Array, other: Array, count: int = NEIGHBOURS) -> float:
    """Return the mean share of each text's nearest, by cosine, that two spaces have in common; widths may differ."""
    near, wanted = _nearest(one, count), _nearest(other, count)
    return float(np.mean([len(set(a) & set(b)) / count for a, b in zip(near, wanted, strict=True)]))


def _nearest(vectors: Array, count: int) -> list[list[int]]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T  # [texts, texts]
    np.fill_diagonal(cosines, -np.inf)
    nearest: list[list[int]] = np.argsort(-cosines, axis=1, kind="stable")[:, :count].tolist()
    return nearest


def _size(learner: SentenceEncoder) -> float:
    with torch.no_grad():
        return float(learner.pooled.model.get_input_embeddings().weight.square().mean().sqrt())
