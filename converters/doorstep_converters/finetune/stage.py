"""Fine-tuning as a stage: what goes into it is written down, and its process started by the runner."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from doorstep_converters.checkpoint import Checkpoint, find_checkpoint
from doorstep_converters.data import DataSet, Row
from doorstep_converters.job import Training
from doorstep_converters.stages import Stage

_MOST_TOKENS = 256


def finetune_stage(
    source: Checkpoint,
    data: DataSet,
    training: Training,
    work: Path,
    extra: Sequence[Row] = (),
    *,
    is_pickle_allowed: bool = False,
) -> Stage:
    """Return the stage that gives `source` a head for the data's labels, each on its own where rows name several.

    Args:
        work: gets the texts as a file for the process.
        extra: more rows to learn from, made by `augment`.
    """
    splits = {
        "train": [[row.text, row.label] for row in (*data.train, *extra)],
        "dev": [[row.text, row.label] for row in data.dev or data.train],
    }
    texts = work / "training.json"
    texts.write_text(json.dumps(splits), encoding="ascii")
    options = {**asdict(training), "is_pickle_allowed": is_pickle_allowed, "is_multi_label": data.has_sets}
    inputs = [source.digest, data.digest, json.dumps([[row.text, row.label] for row in extra])]
    if training.teacher is not None:
        teacher = find_checkpoint(training.teacher)
        options["teacher"] = str(teacher.folder.resolve())
        inputs.append(teacher.digest)
    arguments = {
        "checkpoint": str(source.folder.resolve()),
        "data": str(texts),
        "labels": data.classes,
        "max_length": min(source.max_length, _MOST_TOKENS),
        "options": options,
    }
    job = "doorstep_converters.finetune.train:train"
    return Stage("finetune", job, arguments, tuple(inputs), is_resumable=True, processes=training.processes)
