"""Unstructured pruning by magnitude: the smallest weights become zero, more of them while training goes on.

Stock engines multiply by zeros as by anything else, so nothing runs faster; but the zeros compress, so the download
shrinks. The schedule is cubic (Zhu and Gupta, To prune, or not to prune, https://arxiv.org/abs/1710.01878): many go
early, while the rest can still learn to stand in for them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from doorstep.errors import ConversionError, DataError, UsageError
from doorstep_converters.curves import CURVES
from doorstep_converters.prune.folder import Opened
from doorstep_converters.worker import Channel

_LARGE = 1024  # weights from which a tensor is worth pruning
_RAMP = 0.7  # share of the steps on which sparsity grows; the others heal
_BATCH = 32


class Sparsity(TrainerCallback):
    """Zeroes the smallest weights after every step, as many as the schedule says by then."""

    def __init__(self, model: Any, share: float, steps: int, channel: Channel) -> None:
        self._tensors = prunable(model)
        self._share = share
        self._steps = steps
        self._channel = channel

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        zero_smallest(self._tensors, scheduled(self._share, state.global_step, self._steps))
        self._channel.progress(state.global_step / self._steps)


def prune(
    out: Path,
    channel: Channel,
    checkpoint: str,
    data: str,
    sparsity: float,
    steps: int = 300,
    learning_rate: float = 5e-5,
    max_length: int = 128,
    seed: int = 20261124,
) -> dict[str, Any]:
    """Bring a share of the weights to zero while training on, and write `out/checkpoint`; a job of `stages`.

    TensorBoard's curves go to `channel.logs`; to `out/logs` where that is None.

    Args:
        data: JSON file `{"train": [[text, label]…]}`.
        sparsity: share of each large tensor's weights that are zero in the end (0 to below 1).
        steps: updates; 0 zeroes at once and trains nothing.

    Raises:
        ConversionError: the loss became NaN.
        DataError: no labelled texts.
        UsageError: `sparsity` is no share.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity: expected a share of 0 to below 1, got {sparsity}")
    set_seed(seed)
    opened = Opened.load(checkpoint)
    if steps:
        from torch.utils.tensorboard import SummaryWriter

        opened.model.train()
        curves = TensorBoardCallback(SummaryWriter(str(channel.logs or out / CURVES)))
        trainer = Trainer(
            model=opened.model,
            args=_arguments(out / "run", steps, learning_rate, seed),
            train_dataset=_rows(opened, data, max_length),
            data_collator=DataCollatorWithPadding(opened.tokenizer),
            callbacks=[Sparsity(opened.model, sparsity, steps, channel), curves],
        )
        trainer.train()
    tensors = prunable(opened.model)
    zero_smallest(tensors, sparsity)
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ConversionError("magnitude: the weights became NaN; lower the learning rate")
    opened.model.eval().to("cpu")
    opened.write(out / "checkpoint")
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors)
    return {"zeros": zeros, "weights": sum(tensor.numel() for tensor in tensors), "steps": steps}


def scheduled(share: float, step: int, steps: int) -> float:
    """Return the sparsity after `step` of `steps`.

    >>> [round(scheduled(0.8, step, 100), 2) for step in (0, 20, 70, 100)]
    [0.0, 0.51, 0.8, 0.8]
    """
    done = min(1.0, step / max(1.0, _RAMP * steps))
    return share * (1 - (1 - done) ** 3)


def prunable(model: Any) -> list[torch.Tensor]:
    """Return the large weights of linear layers, filters and tables."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d)
    found = [module.weight for module in model.modules() if isinstance(module, kinds)]
    return [weight for weight in found if weight.numel() >= _LARGE]


@torch.no_grad()
def zero_smallest(tensors: list[torch.Tensor], share: float) -> None:
    """Zero the smallest `share` of each tensor's weights, in place."""
    for tensor in tensors:
        count = int(share * tensor.numel())
        if count:
            threshold = tensor.abs().flatten().kthvalue(count).values
            tensor[tensor.abs() <= threshold] = 0


def _rows(opened: Opened, data: str, max_length: int) -> list[dict[str, Any]]:
    pairs = json.loads(Path(data).read_text(encoding="utf-8"))["train"]
    places = {str(label): int(place) for place, label in opened.model.config.id2label.items()}
    if not pairs:
        raise DataError(f"{data}: expected labelled training texts, got none")
    if unknown := sorted({label for _, label in pairs} - places.keys()):
        raise DataError(f"{data}: the checkpoint's head lacks the label {unknown[0]!r:.60}")
    ids = opened.tokenizer([text for text, _ in pairs], truncation=True, max_length=max_length)["input_ids"]
    return [
        {"input_ids": row, "attention_mask": [1] * len(row), "labels": places[label]}
        for row, (_, label) in zip(ids, pairs, strict=True)
    ]


def _arguments(folder: Path, steps: int, learning_rate: float, seed: int) -> TrainingArguments:
    has_cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=_BATCH,
        learning_rate=learning_rate,
        warmup_steps=max(1, steps // 20),
        seed=seed,
        use_cpu=not has_cuda,
        save_strategy="no",
        logging_steps=max(1, steps // 20),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
