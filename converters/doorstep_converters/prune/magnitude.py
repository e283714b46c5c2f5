"""Unstructured pruning by magnitude: the smallest weights become zero, more of them while training goes on.

Stock engines multiply by zeros as by anything else, so nothing runs faster; but the zeros compress, so the download
shrinks. What is lost is learnt again by distillation from the checkpoint itself, so everything that `distill` does
about kills, NaN and memory holds here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from doorstep.errors import DataError
from doorstep_converters import distill, teach
from doorstep_converters.prune.folder import Opened, carry
from doorstep_converters.prune.sparsity import check_sparsity, count_zeros, prunable, zero_smallest
from doorstep_converters.worker import Channel

_JUDGED = 512  # training texts that a training without dev texts is judged on


def prune(
    out: Path,
    channel: Channel,
    checkpoint: str,
    data: str,
    sparsity: float,
    steps: int = 300,
    learning_rate: float = 5e-4,
    max_length: int = 128,
    seed: int = 20261124,
) -> dict[str, Any]:
    """Bring a share of the weights to zero while training on, and write `out/checkpoint`; a job of `stages`.

    TensorBoard's curves go to `channel.logs`; to `out/logs` where that is None.

    Args:
        data: JSON file `{"train": [[text, label]…], "dev": …}`; without dev texts, training texts judge.
        sparsity: share of each large tensor's weights that are zero in the end (0 to below 1).
        steps: updates; 0 zeroes at once and trains nothing.
        learning_rate: as in `distill.Options`.

    Raises:
        ConversionError: the loss is no number before a first save, or one text does not fit into memory.
        DataError: no labelled texts.
        UsageError: `sparsity` is no share.
    """
    check_sparsity(sparsity)
    opened = Opened.load(checkpoint)
    splits = _splits(opened, data)
    if not steps:
        tensors = prunable(opened.model)
        zero_smallest(tensors, sparsity)
        opened.write(out / "checkpoint")
        return {**count_zeros(tensors), "steps": 0}
    options = {
        "steps": steps, "learning_rate": learning_rate, "max_length": max_length, "seed": seed, "zeros": sparsity
    }  # fmt: skip
    work = (channel.kept or out) / "magnitude"
    taught = work / "taught"
    taught.mkdir(parents=True, exist_ok=True)
    corpus, judged = work / "corpus.jsonl", work / "data.json"
    rows = [json.dumps({"text": text, "label": label}) for text, label in splits["train"]]
    corpus.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    judged.write_text(json.dumps({"dev": splits["dev"]}), encoding="utf-8")
    teach.answer(taught, channel, checkpoint, str(corpus), max_length)
    found = distill.train(out, channel, checkpoint, str(taught), str(judged), options, str(work / "run"))
    carry(Path(checkpoint), out / "checkpoint")
    shutil.rmtree(work)
    return found


def _splits(opened: Opened, data: str) -> dict[str, list[list[str]]]:
    splits: dict[str, list[list[str]]] = json.loads(Path(data).read_text(encoding="utf-8"))
    train = splits["train"]
    if not train:
        raise DataError(f"{data}: expected labelled training texts, got none")
    if unknown := sorted({label for _, label in train} - {*map(str, opened.model.config.id2label.values())}):
        raise DataError(f"{data}: the checkpoint's head lacks the label {unknown[0]!r:.60}")
    return {"train": train, "dev": splits.get("dev") or train[:: max(1, -(-len(train) // _JUDGED))]}
