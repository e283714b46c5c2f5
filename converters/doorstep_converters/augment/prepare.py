"""Augmentation as a stage: what goes into it is written down here, without the libraries its process needs."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from doorstep_converters.augment.plan import AugmentPlan, check_plan
from doorstep_converters.checkpoint import find_checkpoint, find_folder
from doorstep_converters.data import DataSet, Row
from doorstep_converters.stages import Output, Stage, file_digest

CORPUS = "corpus.jsonl"


def augment_stage(
    data: DataSet, plan: AugmentPlan, seed: int, work: Path, unlabelled: Path | None = None, column: str | None = None
) -> Stage:
    """Return the stage that augments the training split of `data`, and texts without labels beside it.

    Args:
        unlabelled: a file as `unlabelled.read_texts` reads it; column: of it that holds the texts.

    Raises:
        UsageError: the plan is wrong. CheckpointError: a checkpoint that it names is not there.
    """
    check_plan(plan)
    content = {
        "train": [[row.text, row.label] for row in data.train],
        "held_out": [row.text for row in (*data.dev, *data.test)],
    }
    texts = work / "augment.json"
    texts.write_text(json.dumps(content), encoding="ascii")
    values, inputs = asdict(plan), [_digest(texts)]
    if plan.teacher is not None:
        teacher = find_checkpoint(plan.teacher)
        values["teacher"] = str(teacher.folder.resolve())
        inputs.append(teacher.digest)
    for name in ("lexicon", "brands"):
        if values[name] is not None:
            path = Path(values[name]).resolve()
            values[name] = str(path)
            inputs.append(_digest(path))
    for name in ("generator", "there", "back"):
        if values[name] is not None:
            folder = find_folder(values[name]).resolve()
            values[name] = str(folder)
            inputs.append(_digest(folder))
    arguments: dict[str, Any] = {"data": str(texts), "plan": values, "seed": seed, "labels": data.labels}
    if unlabelled is not None:
        arguments |= {"unlabelled": str(unlabelled.resolve()), "column": column}
        inputs.append(f"{file_digest(unlabelled)} {column}")
    return Stage("augment", "doorstep_converters.augment.stage:make", arguments, tuple(inputs), is_resumable=True)


def ablate_stage(data: DataSet, made: Output, seed: int, work: Path) -> Stage:
    """Return the stage that measures what `made`, the output of `augment_stage`, brings."""
    splits = {name: [[row.text, row.label] for row in getattr(data, name)] for name in ("train", "dev")}
    splits["dev"] = splits["dev"] or [[row.text, row.label] for row in data.test]
    texts = work / "ablation.json"
    texts.write_text(json.dumps(splits), encoding="ascii")
    arguments = {"corpus": str(made.folder), "data": str(texts), "seed": seed}
    return Stage("ablation", "doorstep_converters.augment.stage:measure", arguments, (made.digest, data.digest))


def read_corpus(folder: Path) -> list[Row]:
    """Return the labelled rows of a stage's `corpus.jsonl`."""
    with open(folder / CORPUS, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Row(row["text"], row["label"]) for row in rows if row["label"] is not None]


def _digest(path: Path) -> str:
    """Return a digest over a file, or over the names and files of a folder."""
    if not path.is_dir():
        return file_digest(path)
    files = {file.name: file_digest(file) for file in sorted(path.iterdir()) if file.is_file()}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
