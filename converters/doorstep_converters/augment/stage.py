"""Augmentation as a stage: a data file and a plan in, `corpus.jsonl` out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from doorstep_converters.ask import ask, labels_of
from doorstep_converters.augment.filter import Leaks, plain
from doorstep_converters.augment.make import augment
from doorstep_converters.augment.plan import AugmentPlan, check_plan
from doorstep_converters.augment.sift import Judge, Sieve, plain_counts
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import DataSet, Row
from doorstep_converters.stages import Output, Stage
from doorstep_converters.worker import Channel

CORPUS = "corpus.jsonl"
_JUDGED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Text:
    """A text, labelled or not."""

    text: str
    label: str | None


def make(out: Path, channel: Channel, data: str, plan: dict[str, Any], seed: int, labels: list[str]) -> dict[str, Any]:
    """Write `corpus.jsonl`, a JSON object a line: text, label or null, transform, source; a job of `stages`.

    Args:
        data: JSON file `{"train": [[text, label or null]…], "held_out": [text…]}`.
        plan: the fields of `AugmentPlan`; with a teacher in it only what that is sure of is kept.
        labels: every label of the data.

    Returns:
        `{"counts": {transform: {"kept": …, "repeated": …, "leaking": …, "unsure": …}}}`
    """
    wanted = AugmentPlan(**{**plan, "transforms": tuple(plan["transforms"])})
    content = json.loads(Path(data).read_text(encoding="utf-8"))
    rows = [Text(text, label) for text, label in content["train"]]
    sieve = Sieve({plain(row.text) for row in rows}, Leaks(content["held_out"], wanted.near), _judge(wanted, labels))
    goal = max(1, round(wanted.copies * len(rows) * len(wanted.transforms)))
    with open(out / CORPUS, "w", encoding="utf-8") as file:
        for number, row in enumerate(sieve.sift(augment(rows, wanted, seed))):
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


def ablate_stage(data: DataSet, made: Output, seed: int, work: Path) -> Stage:
    """Return the stage that measures what `made`, the output of `augment_stage`, brings."""
    splits = {name: [[row.text, row.label] for row in getattr(data, name)] for name in ("train", "dev")}
    splits["dev"] = splits["dev"] or [[row.text, row.label] for row in data.test]
    texts = work / "ablation.json"
    texts.write_text(json.dumps(splits), encoding="ascii")
    arguments = {"corpus": str(made.folder), "data": str(texts), "seed": seed}
    return Stage("ablation", "doorstep_converters.augment.stage:measure", arguments, (made.digest, data.digest))


def augment_stage(data: DataSet, plan: AugmentPlan, seed: int, work: Path) -> Stage:
    """Return the stage that augments the training split of `data`.

    Raises:
        UsageError: the plan is wrong. DataError: the teacher lacks labels of the data.
    """
    check_plan(plan)
    content = {
        "train": [[row.text, row.label] for row in data.train],
        "held_out": [row.text for row in (*data.dev, *data.test)],
    }
    texts = work / "augment.json"
    texts.write_text(json.dumps(content), encoding="ascii")
    values, inputs = asdict(plan), [data.digest]
    if plan.teacher is not None:
        teacher = find_checkpoint(plan.teacher)
        values["teacher"] = str(teacher.folder.resolve())
        inputs.append(teacher.digest)
    for name in ("lexicon", "brands"):
        if values[name] is not None:
            path = Path(values[name]).resolve()
            values[name] = str(path)
            inputs.append(_digest(path))
    arguments = {"data": str(texts), "plan": values, "seed": seed, "labels": data.labels}
    return Stage("augment", "doorstep_converters.augment.stage:make", arguments, tuple(inputs))


def read_corpus(folder: Path) -> list[Row]:
    """Return the labelled rows of a stage's `corpus.jsonl`."""
    with open(folder / CORPUS, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Row(row["text"], row["label"]) for row in rows if row["label"] is not None]


def _judge(plan: AugmentPlan, labels: Sequence[str]) -> Judge | None:
    if plan.teacher is None:
        return None
    folder = find_checkpoint(plan.teacher).folder
    places = labels_of(folder, labels, "augment")
    return Judge(labels, lambda texts: ask(folder, texts, _JUDGED_TOKENS, lambda share: None)[:, places], plan.sure)


def _digest(path: Path) -> str:
    """Return a digest over a file, or over the files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
