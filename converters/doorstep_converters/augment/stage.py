"""Augmentation's jobs: a data file and a plan in, `corpus.jsonl` out; and what its transforms bring."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.files import write_atomic
from doorstep.tensors import Array
from doorstep_converters.ask import ask, labels_of
from doorstep_converters.augment.filter import Leaks
from doorstep_converters.augment.make import augment
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.augment.prepare import CORPUS
from doorstep_converters.augment.sift import Judge, Sieve, plain_counts
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.unlabelled import read_texts
from doorstep_converters.worker import Channel

_JUDGED_TOKENS = 128
_DIGEST = 32  # bytes of SHA-256
_MOST_UNLABELLED = 50_000


@dataclass(frozen=True, slots=True)
class Text:
    """A text, labelled or not."""

    text: str
    label: str | None


def make(
    out: Path,
    channel: Channel,
    data: str,
    plan: dict[str, Any],
    seed: int,
    labels: list[str],
    unlabelled: str = "",
    column: str | None = None,
) -> dict[str, Any]:
    """Write `corpus.jsonl`, a JSON object a line: text, label or null, transform, source; a job of `stages`.

    A run that is killed makes its texts again, but the teacher is not asked again about those it has answered.

    Args:
        data: JSON file `{"train": [[text, label or null]…], "held_out": [text…]}`.
        plan: the fields of `AugmentPlan`; with a teacher in it only what that is sure of is kept.
        labels: every label of the data.
        unlabelled: file of texts without labels, of which the first 50,000 are changed as well.
        column: of that file, which holds the texts.

    Returns:
        `{"counts": {transform: {"kept": …, "repeated": …, "leaking": …, "unsure": …}}}`
    """
    wanted = AugmentPlan(**{**plan, "transforms": tuple(plan["transforms"])})
    content = json.loads(Path(data).read_text(encoding="utf-8"))
    rows = [Text(text, label) for text, label in content["train"]]
    if unlabelled:
        rows += [Text(text, None) for text in islice(read_texts(Path(unlabelled), column), _MOST_UNLABELLED)]
    sieve = Sieve(
        {row.text.strip() for row in rows}, Leaks(content["held_out"], wanted.near), _judge(wanted, labels, channel)
    )
    goal = max(1, round(wanted.copies * len(rows) * len(wanted.transforms)))
    with open(out / CORPUS, "w", encoding="utf-8") as file:
        for number, row in enumerate(sieve.sift(augment(rows, wanted, seed, channel.note))):
            file.write(json.dumps(asdict(row)) + "\n")
            channel.progress(min(1.0, (number + 1) / goal))
    return {"counts": plain_counts(sieve.counts)}


def measure(out: Path, channel: Channel, corpus: str, data: str, seed: int) -> dict[str, Any]:
    """Measure what each transform of a corpus brings to a fast student on the dev split; a job of `stages`."""
    from doorstep_converters.augment.ablation import ablate

    content = json.loads(Path(data).read_text(encoding="utf-8"))
    made: dict[str, list[tuple[str, str]]] = {}
    with open(Path(corpus) / CORPUS, encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["label"] is not None:
                made.setdefault(row["transform"], []).append((row["text"], row["label"]))
    train, dev = ([(text, label) for text, label in content[split]] for split in ("train", "dev"))
    return ablate(train, made, dev, seed)


def _judge(plan: AugmentPlan, labels: Sequence[str], channel: Channel) -> Judge | None:
    if plan.teacher is None:
        return None
    folder = find_checkpoint(plan.teacher).folder
    places = labels_of(folder, labels, "augment")

    def judge(texts: Sequence[str]) -> Array:
        found = ask(folder, texts, _JUDGED_TOKENS, lambda share: None, say=channel.note, precision=plan.precision)
        return found[:, places]

    return Judge(labels, _Remembering(judge, channel.kept) if channel.kept else judge, plan.sure)


class _Remembering:
    """Asks about each text once and keeps the answers in `folder`; damaged ones are asked for again."""

    def __init__(self, asked: Callable[[Sequence[str]], Array], folder: Path) -> None:
        self._ask, self._folder = asked, folder
        self._known: dict[str, list[float]] = {}
        for path in folder.glob("[!.]*"):
            self._known |= _unsealed(path.read_bytes())

    def __call__(self, texts: Sequence[str]) -> Array:
        """Return probabilities [texts, classes] float32."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if new:
            found = dict(zip(new, self._ask(list(new.values())).tolist(), strict=True))
            data = json.dumps(found).encode()
            digest = hashlib.sha256(data).digest()
            write_atomic(self._folder / digest.hex(), digest + data)
            self._known |= found
        return np.array([self._known[key] for key in keys], np.float32)


def _unsealed(data: bytes) -> dict[str, list[float]]:
    """Return the answers behind a digest; none where the two do not fit."""
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return {}
    found: dict[str, list[float]] = json.loads(data[_DIGEST:])
    return found
