"""One training loop for the small models made here: AdamW, a warm-up, a linear fall, the best epoch kept."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.errors import ConversionError
from doorstep_converters.placement import feeds_device
from doorstep_converters.precision import is_bf16, products
from doorstep_converters.worker import Channel

_NARROW = 384
_POINTS = 200  # of a training's curves
_GROUP = 20  # batches whose rows are sorted together


@dataclass(frozen=True, slots=True)
class Course:
    """How a model learns.

    Attributes:
        epochs: passes over the rows.
        batch: rows of one step.
        warmup: share of the steps in which the rate rises (0 to 1).
        patience: epochs without a better dev figure after which it stops; 0 for never.
        precision: of matrix products, as `precision.is_bf16` reads it; losses are to be computed in fp32.
        part: of a training that has several: the folder of its curves below the stage's.
    """

    epochs: int
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 20261124
    patience: int = 0
    precision: str = "fp32"
    part: str = ""


@contextmanager
def _named_shortage() -> Iterator[None]:
    """Say what to do where the GPU has no room, be it for the loss, for gradients or for judging."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConversionError(
            f"the GPU has no room for this training ({str(error).partition('.')[0]}); "
            "without it: CUDA_VISIBLE_DEVICES= doorstep …"
        ) from error


@_named_shortage()
def fit(
    model: torch.nn.Module,
    rows: Sequence[Any],
    loss_of: Callable[[list[Any]], torch.Tensor],
    dev_figure: Callable[[], float],
    course: Course,
    channel: Channel | None = None,
    length_of: Callable[[Any], int] | None = None,
) -> dict[str, Any]:
    """Train `model` on batches of `rows`, and leave it with the weights of its best epoch, in eval mode, on the CPU.

    Until then it lies on the GPU where there is one: `loss_of` and `dev_figure` feed it where `device_of` finds it.
    TensorBoard's curves of loss, learning rate and dev figure go to the channel's logs, where it has some.

    Args:
        loss_of: the mean loss of a batch.
        dev_figure: the task's metric on dev, higher is better.
        length_of: what a row is padded by; rows of like length then share a batch.

    Raises:
        ConversionError: the loss became NaN, or the GPU is too small.
    """
    generator, device = np.random.default_rng(course.seed), feeds_device()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, weight_decay=course.weight_decay)
    per_epoch = max(1, -(-len(rows) // course.batch))
    total = per_epoch * course.epochs
    rise = max(1, int(total * course.warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, max(0.0, (total - step) / max(1, total - rise)))
    )
    has_bf16 = is_bf16(course.precision, on_gpu=device.type == "cuda")
    best, kept, figures, step = -1.0, copy.deepcopy(model.state_dict()), [], 0
    curves = _Curves(channel.logs / course.part if channel is not None and channel.logs else None, total)
    for epoch in range(course.epochs):
        model.train()
        for places in _batches(rows, course.batch, generator, length_of):
            with products(device, has_bf16):
                loss = loss_of([rows[place] for place in places])
            if not torch.isfinite(loss):
                raise ConversionError(
                    f"the loss of epoch {epoch + 1} is no number; lower the learning rate: --learning-rate 1e-5"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            curves.learnt(step, loss, schedule.get_last_lr()[0])
            if channel is not None:
                channel.progress(step / total)
        model.eval()
        with torch.no_grad(), products(device, has_bf16):
            figures.append(dev_figure())
        curves.judged(step, figures[-1])
        if figures[-1] >= best:  # of equal epochs the last: it has learnt longest
            best, kept = figures[-1], copy.deepcopy(model.state_dict())
        if course.patience and len(figures) - 1 - int(np.argmax(figures)) >= course.patience:
            break
    curves.close()
    model.load_state_dict(kept)
    model.to("cpu").eval()
    return {"dev": best, "epochs": len(figures), "steps": step, "by_epoch": figures}


def rate_for(width: int, narrow: float, wide: float) -> float:
    """Return the learning rate of an encoder: `narrow` up to 384 numbers a token, as MiniLM has, else `wide`."""
    return narrow if width <= _NARROW else wide


class _Curves:
    """Writes a training's curves to `folder`, a few hundred points of `total` steps; None writes nothing."""

    def __init__(self, folder: Path | None, total: int) -> None:
        self._every = max(1, total // _POINTS)
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def learnt(self, step: int, loss: torch.Tensor, rate: float) -> None:
        if self._writer is not None and (step == 1 or step % self._every == 0):
            self._writer.add_scalar("train/loss", float(loss.detach()), step)
            self._writer.add_scalar("train/learning_rate", rate, step)

    def judged(self, step: int, figure: float) -> None:
        if self._writer is not None:
            self._writer.add_scalar("eval/figure", figure, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _batches(
    rows: Sequence[Any], size: int, generator: np.random.Generator, length_of: Callable[[Any], int] | None
) -> list[list[int]]:
    """Return the places of an epoch's batches; with `length_of`, sorted by length within groups of many batches."""
    order = generator.permutation(len(rows)).tolist()
    if length_of is None:
        return [order[start : start + size] for start in range(0, len(order), size)]
    lengths = [length_of(row) for row in rows]
    batches = []
    for start in range(0, len(order), _GROUP * size):
        group = sorted(order[start : start + _GROUP * size], key=lambda place: lengths[place])
        batches += [group[first : first + size] for first in range(0, len(group), size)]
    return [batches[place] for place in generator.permutation(len(batches))]
